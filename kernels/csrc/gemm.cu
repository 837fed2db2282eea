// Launchers of products with more rows.
#include "launch.h"

#include "gemm.cuh"

namespace uqlib::gemm {

inline bool are_sizes_valid(const Product& p, int bits, int multiprocessors) {
  if (bits != 8 && bits != 4 && bits != 2 && bits != 1) return false;
  // Products of 32 bits and sums a little beyond the sizes stay in range.
  constexpr int most = 1 << 30, most_columns = 1 << 28;
  if (p.n_rows > most || p.n_out > most || p.n_columns > most_columns) return false;
  return p.n_rows >= 1 && p.n_true_out >= 1 && p.n_out >= p.n_true_out &&
         p.n_out % kTileRows == 0 && p.n_columns >= 1 &&
         p.n_columns % columns_of_step(bits) == 0 && p.group_columns >= 1 &&
         p.group_columns % (bits == 8 ? 64 : 32) == 0 && p.n_groups >= 1 &&
         int64_t{p.n_groups} * p.group_columns <= p.n_columns && multiprocessors >= 1 &&
         is_cut(p.n_rows, p.n_out, p.n_columns, bits);
}

inline Cut cut_of(const Product& p, int bits, int multiprocessors) {
  return cut_of(p.n_rows, p.n_out, p.n_columns, bits, multiprocessors);
}

// Sums of groups of floats, which lie behind the parts: none where they are not needed, or
// given, as those of bytes are.
inline int64_t floats_of_sums(const Product& p, int bits) {
  const bool makes_sums = p.group_sums == nullptr && has_rest(p, float_center(p, bits));
  return makes_sums ? int64_t{p.n_rows} * p.n_groups : 0;
}

template <typename L>
int run(const Product& p, const Cut& cut, int out, Stream stream) {
  const Index3 grid{static_cast<unsigned>(cut.n_runs), 1, 1};
  return launch(multiply<L>, grid, kThreads, L::kBytes, stream, p,
                L::Multiplied::center_of(p), cut, out);
}

template <typename T, int kBits, bool kCodebook>
int run(const Product& p, const Cut& cut, int out, Stream stream) {
  return cut.tile_rows == kFewRows
             ? run<Layout<T, kBits, kCodebook, kFewRows>>(p, cut, out, stream)
             : run<Layout<T, kBits, kCodebook, kManyRows>>(p, cut, out, stream);
}

template <typename T>
int run(Product p, int bits, const Cut& cut, int out, Stream stream) {
  if constexpr (std::is_same_v<T, int8_t>) {
    const bool needs_sums = has_rest(p, integer_center(bits));
    if (p.pairs != nullptr || (needs_sums && p.group_sums == nullptr)) return UQLIB_INVALID;
    if (!needs_sums) p.group_sums = nullptr;
  } else {
    if ((p.pairs != nullptr && bits != 4) || p.group_sums != nullptr) return UQLIB_INVALID;
    if (floats_of_sums(p, bits) > 0) {
      float* const sums = p.parts + cut.floats_of_parts();
      const int blocks = (p.n_groups - 1) / kWarps + 1;
      const Index3 grid{static_cast<unsigned>(p.n_rows),
                        static_cast<unsigned>(blocks < 65535 ? blocks : 65535), 1};
      const int code = launch(sum_groups<T>, grid, kThreads, 0, stream, p, sums);
      if (code != 0) return code;
      p.group_sums = reinterpret_cast<const int32_t*>(sums);  // whose bits are floats
    }
    if (p.pairs != nullptr) return run<T, 4, true>(p, cut, out, stream);
  }
  if (bits == 8) return run<T, 8, false>(p, cut, out, stream);
  if (bits == 4) return run<T, 4, false>(p, cut, out, stream);
  if (bits == 2) return run<T, 2, false>(p, cut, out, stream);
  return run<T, 1, false>(p, cut, out, stream);
}

}  // namespace uqlib::gemm

extern "C" int64_t uqlib_gemm_parts(const UqlibProduct* p, int bits, int multiprocessors) {
  using namespace uqlib::gemm;
  if (p == nullptr || !are_sizes_valid(*p, bits, multiprocessors)) return 0;
  return cut_of(*p, bits, multiprocessors).floats_of_parts() + floats_of_sums(*p, bits);
}

extern "C" int uqlib_gemm(const UqlibProduct* p, int type, int bits, int out,
                          int multiprocessors, void* stream) {
  using namespace uqlib;
  using namespace uqlib::gemm;
  if (p == nullptr) return UQLIB_INVALID;
  if (p->n_rows == 0) return 0;
  if (!are_sizes_valid(*p, bits, multiprocessors) || out < UQLIB_FLOAT || out > UQLIB_BFLOAT16)
    return UQLIB_INVALID;
  if (p->x == nullptr || p->weight == nullptr || p->scale == nullptr || p->y == nullptr)
    return UQLIB_INVALID;
  if (!is_aligned(p->x) || !is_aligned(p->weight) || !is_aligned(p->scale) ||
      !is_aligned(p->zero) || !is_aligned(p->parts))
    return UQLIB_INVALID;
  const Cut cut = gemm::cut_of(*p, bits, multiprocessors);
  const bool makes_sums = type != UQLIB_INT8 && floats_of_sums(*p, bits) > 0;
  if ((cut.has_parts() || makes_sums) && p->parts == nullptr) return UQLIB_INVALID;
  const auto on = static_cast<Stream>(stream);
  const int code = type == UQLIB_HALF       ? run<Half>(*p, bits, cut, out, on)
                   : type == UQLIB_BFLOAT16 ? run<BFloat16>(*p, bits, cut, out, on)
                   : type == UQLIB_INT8     ? run<int8_t>(*p, bits, cut, out, on)
                                            : static_cast<int>(UQLIB_INVALID);
  if (code != 0 || !cut.has_parts()) return code;
  const Index3 grid{static_cast<unsigned>(cut.n_runs - 1),
                    static_cast<unsigned>(kWarpTiles * cut.tile_rows / 8), 1};
  return launch(add_parts, grid, kThreads, 0, on, *p, cut, out);
}

#if defined(UQLIB_EMULATED)
// What tests walk of the partition and the places in shared memory.
extern "C" int64_t uqlib_gemm_runs(const UqlibProduct* p, int bits, int multiprocessors) {
  return uqlib::gemm::cut_of(*p, bits, multiprocessors).n_runs;
}
// (tile, first, last, part) of the `index`-th piece of a run; whether there is one.
extern "C" int uqlib_gemm_piece(const UqlibProduct* p, int bits, int multiprocessors,
                                int64_t run, int64_t index, int64_t* piece) {
  const auto cut = uqlib::gemm::cut_of(*p, bits, multiprocessors);
  const int of_run = static_cast<int>(run);
  const int tile = cut.first_tile(of_run) + static_cast<int>(index);
  const auto found = uqlib::gemm::piece_of(cut, of_run, tile);
  piece[0] = tile, piece[1] = found.first, piece[2] = found.last, piece[3] = found.part;
  return found.first < found.last;
}
// (tile, first run, last run) of a tile that is shared, by the run before a meeting.
extern "C" int uqlib_gemm_shared(const UqlibProduct* p, int bits, int multiprocessors,
                                 int64_t before, int64_t* shared) {
  const auto cut = uqlib::gemm::cut_of(*p, bits, multiprocessors);
  const int tile = uqlib::gemm::shared_tile(cut, static_cast<int>(before));
  if (tile < 0) return 0;
  shared[0] = tile, shared[1] = cut.run_of(tile, 0);
  shared[2] = cut.run_of(tile, cut.n_steps - 1);
  return 1;
}
// Which 16 bytes of a tile of inputs a lane reads in a run of rows 0 to 7.
extern "C" int uqlib_gemm_place(int type, int bits, int lane, int run) {
  using namespace uqlib;
  const int t = lane % 4, row = lane / 4;
  if (type == UQLIB_INT8)
    return gemm::place_of_chunk<4>(row, Operands<int8_t, 4, false>::input_column(t, run) / 16);
  const int column = bits == 8 ? Operands<Half, 8, false>::input_column(t, run)
                               : Operands<Half, 4, false>::input_column(t, run);
  return gemm::place_of_chunk<8>(row, column / 8);
}
#endif
