// Launchers of skinny products.
#include "skinny.cuh"

#include "launch.h"

namespace uqlib {
namespace {

constexpr int64_t kStagedInputs = 32 * 1024;  // bytes of x that a block may copy
constexpr int64_t kStagedScales = 8 * 1024;   // bytes of scales, and as many of zeros
// A part of the columns of 16 outputs: one multiprocessor reads as much in the time that
// the launch of `add_parts` takes.
constexpr int64_t kLeastPart = 64 * 1024;

constexpr int row_tiles_of(int n_rows) { return n_rows <= 8 ? 1 : 2; }

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t ceil_of(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How a product is split; other fields are left to `finish`.
SkinnyPlan plan_of(const Product& p, int bits, int multiprocessors) {
  SkinnyPlan plan{};
  const int row_tiles = row_tiles_of(p.n_rows);
  plan.n_row_blocks = static_cast<int>(ceil_of(p.n_rows, 8 * row_tiles));
  const int64_t blocks = int64_t{p.n_out / kTileRows} * plan.n_row_blocks;
  const int64_t steps = p.n_columns / columns_of_step(bits);
  const int64_t bytes = steps * (bits == 8 ? 1024 : 512);
  const int64_t splits = least(multiprocessors / blocks, bytes / kLeastPart);
  plan.split_steps = static_cast<int>(ceil_of(steps, splits < 1 ? 1 : splits));
  plan.n_splits = static_cast<int>(ceil_of(steps, plan.split_steps));
  return plan;
}

template <typename T, int kBits, int kRowTiles, bool kRest>
void finish(SkinnyPlan& plan, const Product& p, int multiprocessors) {
  const int64_t columns = int64_t{plan.split_steps} * columns_of_step(kBits);
  // Many warps where few blocks meet on a multiprocessor, but no idle ones.
  const int64_t blocks = int64_t{p.n_out / kTileRows} * plan.n_row_blocks * plan.n_splits;
  const int64_t threads = ceil_of(blocks, multiprocessors) * 16 * kLanes;
  plan.n_warps = threads <= resident_threads(kBits, kRowTiles, kRest) ? 16 : 8;
  while (plan.n_warps > 4 * kRowTiles && plan.n_warps > plan.split_steps) plan.n_warps /= 2;

  const int64_t groups = least(p.n_groups, columns / p.group_columns + 2);
  const int64_t rows = least(p.n_rows, 8 * kRowTiles);
  // Rows of 16 bytes that lanes read together lie in different banks.
  const int64_t row_bytes = columns * sizeof(T) + (kBits == 8 && sizeof(T) == 2 ? 16 : 64);
  plan.reciprocal = reciprocal_of(p.group_columns / 32);
  plan.halves_differ = p.group_columns % kTileColumns != 0;
  if (groups * kTileRows * 4 <= kStagedScales) plan.staged_groups = static_cast<int>(groups);
  if (rows * row_bytes <= kStagedInputs) plan.staged_row_bytes = static_cast<int>(row_bytes);
}

template <typename T, int kBits, int kRowTiles, bool kBook, bool kRest>
int launch_rows(const Product& p, SkinnyPlan plan, int multiprocessors, Stream stream) {
  finish<T, kBits, kRowTiles, kRest>(plan, p, multiprocessors);
  const int64_t rows = least(p.n_rows, 8 * kRowTiles);
  const int64_t shared = (kBook ? kPairsBytes : 0) +
                         (plan.n_warps + 2) * kRowTiles * 512 +
                         plan.staged_groups * kTileRows * 4 * (p.zero == nullptr ? 1 : 2) +
                         plan.staged_row_bytes * rows;
  const Index3 grid = {static_cast<unsigned>(plan.n_row_blocks),
                       static_cast<unsigned>(p.n_out / kTileRows),
                       static_cast<unsigned>(plan.n_splits)};
  return launch(multiply_rows<T, kBits, kRowTiles, kBook, kRest>, grid, kLanes * plan.n_warps,
                static_cast<size_t>(shared), stream, p, plan);
}

template <typename T, int kBits, bool kBook, bool kRest>
int launch_codes(const Product& p, const SkinnyPlan& plan, int multiprocessors,
                 Stream stream) {
  return row_tiles_of(p.n_rows) == 1
             ? launch_rows<T, kBits, 1, kBook, kRest>(p, plan, multiprocessors, stream)
             : launch_rows<T, kBits, 2, kBook, kRest>(p, plan, multiprocessors, stream);
}

template <typename T, int kBits, bool kBook = false>
int launch_floats(const Product& p, const SkinnyPlan& plan, int multiprocessors,
                  Stream stream) {
  return has_rest(p, plan.center.value)
             ? launch_codes<T, kBits, kBook, true>(p, plan, multiprocessors, stream)
             : launch_codes<T, kBits, kBook, false>(p, plan, multiprocessors, stream);
}

template <typename T, int kBits>
int launch_bits(const Product& p, SkinnyPlan plan, int multiprocessors, Stream stream) {
  plan.center = Operands<T, kBits, false>::center_of(p);
  if constexpr (sizeof(T) == 1) {
    return launch_codes<T, kBits, false, false>(p, plan, multiprocessors, stream);
  } else {
    if constexpr (kBits == 4)
      if (p.pairs != nullptr)
        return launch_floats<T, kBits, true>(p, plan, multiprocessors, stream);
    return launch_floats<T, kBits>(p, plan, multiprocessors, stream);
  }
}

template <typename T>
int launch_type(const Product& p, const SkinnyPlan& plan, int bits, int multiprocessors,
                Stream stream) {
  if (bits == 8) return launch_bits<T, 8>(p, plan, multiprocessors, stream);
  if (bits == 4) return launch_bits<T, 4>(p, plan, multiprocessors, stream);
  if (bits == 2) return launch_bits<T, 2>(p, plan, multiprocessors, stream);
  return launch_bits<T, 1>(p, plan, multiprocessors, stream);
}

// Whether sizes and types are those of a product.
bool is_product(const Product* p, int bits, int multiprocessors) {
  if (p == nullptr || multiprocessors < 1) return false;
  if (bits != 8 && bits != 4 && bits != 2 && bits != 1) return false;
  if (p->n_rows < 0 || p->n_out < 1 || p->n_columns < 1 || p->n_groups < 1) return false;
  if (p->n_out % kTileRows || p->n_true_out < 1 || p->n_true_out > p->n_out) return false;
  if (p->n_columns % columns_of_step(bits)) return false;
  if (p->group_columns < 1 || p->group_columns % (bits == 8 ? 64 : 32)) return false;
  if (int64_t{p->group_columns} * p->n_groups > p->n_columns) return false;
  // What group_of_half is exact for, offsets of 8 rows fit, and a grid may have.
  const int64_t halves = p->n_columns / 32;
  return halves * (p->group_columns / 32) < int64_t{1} << 31 &&
         p->n_columns < 1 << 27 && p->n_out / kTileRows <= 65535;
}

// Whether the arrays of a product are there.
bool has_arrays(const Product& p, int type, int bits, int n_splits) {
  if (p.x == nullptr || p.weight == nullptr || p.scale == nullptr || p.y == nullptr)
    return false;
  if (!is_aligned(p.x) || !is_aligned(p.weight) || !is_aligned(p.scale) ||
      !is_aligned(p.zero))
    return false;
  if (p.pairs != nullptr && (bits != 4 || type == UQLIB_INT8)) return false;
  if (type == UQLIB_INT8 && p.group_sums == nullptr && has_rest(p, integer_center(bits)))
    return false;
  return n_splits == 1 || p.parts != nullptr;
}

}  // namespace
}  // namespace uqlib

extern "C" int64_t uqlib_skinny_parts(const UqlibProduct* p, int bits, int multiprocessors) {
  if (!uqlib::is_product(p, bits, multiprocessors) || p->n_rows == 0) return 0;
  const int n_splits = uqlib::plan_of(*p, bits, multiprocessors).n_splits;
  return n_splits == 1 ? 0 : int64_t{n_splits} * p->n_rows * p->n_out;
}

extern "C" int uqlib_skinny(const UqlibProduct* p, int type, int bits, int out,
                            int multiprocessors, void* stream) {
  using namespace uqlib;
  if (!is_product(p, bits, multiprocessors)) return UQLIB_INVALID;
  if (type != UQLIB_HALF && type != UQLIB_BFLOAT16 && type != UQLIB_INT8)
    return UQLIB_INVALID;
  if (out != UQLIB_FLOAT && out != UQLIB_HALF && out != UQLIB_BFLOAT16) return UQLIB_INVALID;
  if (p->n_rows == 0) return 0;
  SkinnyPlan plan = plan_of(*p, bits, multiprocessors);
  plan.out = out;
  if (!has_arrays(*p, type, bits, plan.n_splits)) return UQLIB_INVALID;
  const Stream on = static_cast<Stream>(stream);
  const auto run = type == UQLIB_HALF       ? launch_type<Half>
                   : type == UQLIB_BFLOAT16 ? launch_type<BFloat16>
                                            : launch_type<int8_t>;
  const int code = run(*p, plan, bits, multiprocessors, on);
  if (code != 0 || plan.n_splits == 1) return code;
  const int64_t results = int64_t{p->n_rows} * p->n_true_out;
  return launch(add_parts, {static_cast<unsigned>(ceil_of(results, 256)), 1, 1}, 256, 0, on,
                *p, plan);
}
