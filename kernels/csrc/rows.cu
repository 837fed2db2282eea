// Launchers of rows.cuh, rows_quantize.cuh and rows_results.cuh; see launch.h.
#include "rows.cuh"

#include "launch.h"
#include "rows_quantize.cuh"
#include "rows_results.cuh"

namespace uqlib {
namespace {

constexpr int kMostColumns = 1 << 20;  // of rows of bytes: their sums lie in shared memory

// A grid of blocks of 256 threads over rows and pieces of rows.
template <typename Parameters>
int launch_cells(void (*kernel)(Parameters), Parameters p, int64_t n_rows, int pieces,
                 Stream stream) {
  p.row_shift = shift_of_row(pieces, 256);
  const int rows = rows_of_block(p.row_shift);
  const unsigned blocks = static_cast<unsigned>((n_rows + rows - 1) / rows);
  const unsigned parts = static_cast<unsigned>(((pieces - 1) >> p.row_shift) + 1);
  return launch(kernel, {blocks, parts, 1}, rows << p.row_shift, 0, stream, p);
}

bool is_float_type(int type) {
  return type == UQLIB_FLOAT || type == UQLIB_HALF || type == UQLIB_BFLOAT16;
}

// The instance of a kernel for a type of floats.
template <typename Kernel>
Kernel of_type(int type, Kernel of_float, Kernel of_half, Kernel of_bfloat16) {
  return type == UQLIB_FLOAT ? of_float : type == UQLIB_HALF ? of_half : of_bfloat16;
}

int launch_quantize(void (*kernel)(QuantizeRows), QuantizeRows p, Stream stream) {
  p.row_shift = shift_of_row(p.columns.n_columns / 16, kMostRowThreads);
  const int rows = rows_of_block(p.row_shift);
  const unsigned blocks =
      static_cast<unsigned>((static_cast<int64_t>(p.n_rows) + rows - 1) / rows);
  return launch(kernel, {blocks, 1, 1}, rows << p.row_shift,
                shared_of_quantize(rows, p.columns, p.sums != nullptr), stream, p);
}

}  // namespace
}  // namespace uqlib

using namespace uqlib;

extern "C" int uqlib_quantize_rows(const void* x, int type, int8_t* codes, int32_t* sums,
                                   float* row_scale, int n_rows, const UqlibColumns* columns,
                                   int bits, int top, float static_scale, void* stream) {
  if (!is_float_type(type) || !are_valid(columns, bits) || n_rows < 0 || top < 1 ||
      top > 127 || columns->n_columns > kMostColumns ||
      !(static_scale >= 0.0f && static_scale < INFINITY))
    return UQLIB_INVALID;
  if (n_rows == 0) return 0;
  if (x == nullptr || codes == nullptr || row_scale == nullptr || !is_aligned(codes))
    return UQLIB_INVALID;
  QuantizeRows p{};
  p.x = x;
  p.codes = codes;
  p.sums = sums;
  p.row_scale = row_scale;
  p.columns = *columns;
  p.n_rows = n_rows;
  p.top = static_cast<float>(top);
  p.static_scale = static_scale;
  p.set_order(bits);
  const auto kernel =
      of_type(type, quantize_rows<float>, quantize_rows<Half>, quantize_rows<BFloat16>);
  return launch_quantize(kernel, p, static_cast<Stream>(stream));
}

extern "C" int uqlib_place_rows(const void* x, int type, void* out, int to, int n_rows,
                                const UqlibColumns* columns, void* stream) {
  const bool in_parts = type == UQLIB_FLOAT && to == UQLIB_BFLOAT16;
  const bool as_they_are = type == to && (type == UQLIB_HALF || type == UQLIB_BFLOAT16);
  if (!(in_parts || as_they_are) || !are_valid(columns) || n_rows < 0) return UQLIB_INVALID;
  if (n_rows == 0) return 0;
  if (x == nullptr || out == nullptr || !is_aligned(out)) return UQLIB_INVALID;
  PlaceRows p{};
  p.x = x;
  p.out = out;
  p.columns = *columns;
  p.n_rows = n_rows;
  return launch_cells(in_parts ? place_rows<float> : place_rows<Half>, p, n_rows,
                      columns->n_columns / kRun, static_cast<Stream>(stream));
}

extern "C" int uqlib_add_planes(const float* parts, const float* bias, void* y, int out,
                                int n_rows, int n_out, void* stream) {
  if (!is_float_type(out) || n_rows < 0 || n_out < 1) return UQLIB_INVALID;
  if (n_rows == 0) return 0;
  if (parts == nullptr || y == nullptr) return UQLIB_INVALID;
  AddPlanes p{};
  p.parts = parts;
  p.bias = bias;
  p.y = y;
  p.n_rows = n_rows;
  p.n_out = n_out;
  p.reads_four = by_four(parts, n_out, 4);
  p.writes_four = by_four(y, n_out, out == UQLIB_FLOAT ? 4 : 2);
  const auto kernel = of_type(out, add_planes<float>, add_planes<Half>, add_planes<BFloat16>);
  return launch_cells(kernel, p, n_rows, (n_out - 1) / kPiece + 1,
                      static_cast<Stream>(stream));
}

extern "C" int uqlib_scale_sums(const int32_t* sums, const int32_t* row_sums,
                                const float* row_scale, const float* scale,
                                const float* zero, float uniform_zero, float center,
                                const float* bias, void* y, int out, int n_rows, int n_out,
                                int n_padded, void* stream) {
  if (!is_float_type(out) || n_rows < 0 || n_out < 1 || n_padded < n_out)
    return UQLIB_INVALID;
  if (n_rows == 0) return 0;
  // Without sums of rows nothing can be taken off for zero points.
  if (row_sums == nullptr && (zero != nullptr || uniform_zero != center))
    return UQLIB_INVALID;
  if (sums == nullptr || row_scale == nullptr || scale == nullptr || y == nullptr)
    return UQLIB_INVALID;
  ScaleSums p{};
  p.sums = sums;
  p.row_sums = row_sums;
  p.row_scale = row_scale;
  p.scale = scale;
  p.zero = zero;
  p.bias = bias;
  p.y = y;
  p.uniform_zero = uniform_zero;
  p.center = center;
  p.n_rows = n_rows;
  p.n_out = n_out;
  p.n_padded = n_padded;
  p.reads_four = by_four(sums, n_padded, 4);
  p.writes_four = by_four(y, n_out, out == UQLIB_FLOAT ? 4 : 2);
  const auto kernel = of_type(out, scale_sums<float>, scale_sums<Half>, scale_sums<BFloat16>);
  return launch_cells(kernel, p, (static_cast<int64_t>(n_rows) - 1) / kRowsOfThread + 1,
                      (n_out - 1) / kPiece + 1, static_cast<Stream>(stream));
}
