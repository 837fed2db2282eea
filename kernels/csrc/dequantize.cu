// Launchers of dequantize.cuh; see launch.h.
#include "dequantize.cuh"

#include "launch.h"

namespace uqlib {
namespace {

bool is_valid(const Product* p, int bits) {
  return p != nullptr && p->weight != nullptr && is_aligned(p->weight) && p->n_out >= 1 &&
         p->n_out % kTileRows == 0 && p->n_true_out >= 1 && p->n_true_out <= p->n_out &&
         p->n_columns >= 1 && p->n_columns % columns_of_step(bits) == 0;
}

template <typename Kernel>
int launch_steps(Kernel kernel, Dequantize& p, int bits, Stream stream) {
  p.n_steps = static_cast<unsigned>(p.product.n_columns / columns_of_step(bits));
  p.n_blocks_of_rows = (p.n_steps - 1) / kStepWarps + 1;
  const int64_t n_tile_rows = p.product.n_out / kTileRows;
  const int64_t blocks = n_tile_rows * p.n_blocks_of_rows;
  if (blocks > INT32_MAX) return UQLIB_INVALID;
  return launch(kernel, {static_cast<unsigned>(blocks), 1, 1}, kStepWarps * kLanes,
                16 * sizeof(float), stream, p);
}

template <typename Out>
int dequantize_to(Dequantize& p, int bits, Stream stream) {
  if (p.codebook != nullptr)
    return launch_steps(dequantize<Out, 4, true>, p, bits, stream);
  if (bits == 8) return launch_steps(dequantize<Out, 8, false>, p, bits, stream);
  if (bits == 4) return launch_steps(dequantize<Out, 4, false>, p, bits, stream);
  if (bits == 2) return launch_steps(dequantize<Out, 2, false>, p, bits, stream);
  return launch_steps(dequantize<Out, 1, false>, p, bits, stream);
}

}  // namespace
}  // namespace uqlib

using namespace uqlib;

extern "C" int uqlib_dequantize(const UqlibProduct* p, const UqlibColumns* columns,
                                const float* codebook, int bits, void* weight, int out,
                                void* stream) {
  if (!are_valid(columns, bits) || !is_valid(p, bits) || p->scale == nullptr ||
      weight == nullptr || p->n_columns != columns->n_columns ||
      p->n_groups != columns->n_groups || p->group_columns != columns->group_columns ||
      (codebook != nullptr && bits != 4))
    return UQLIB_INVALID;
  Dequantize d{};
  d.product = *p;
  d.columns = *columns;
  d.codebook = codebook;
  d.matrix = weight;
  const Stream on = static_cast<Stream>(stream);
  if (out == UQLIB_FLOAT) return dequantize_to<float>(d, bits, on);
  if (out == UQLIB_HALF) return dequantize_to<Half>(d, bits, on);
  return out == UQLIB_BFLOAT16 ? dequantize_to<BFloat16>(d, bits, on) : UQLIB_INVALID;
}

extern "C" int uqlib_expand_codes(const UqlibProduct* p, int bits, int8_t* codes,
                                  void* stream) {
  if ((bits != 4 && bits != 2 && bits != 1) || !is_valid(p, bits) || codes == nullptr ||
      !is_aligned(codes))
    return UQLIB_INVALID;
  Dequantize d{};
  d.product = *p;
  d.matrix = codes;
  const Stream on = static_cast<Stream>(stream);
  if (bits == 4) return launch_steps(expand_codes<4>, d, bits, on);
  return bits == 2 ? launch_steps(expand_codes<2>, d, bits, on)
                   : launch_steps(expand_codes<1>, d, bits, on);
}
