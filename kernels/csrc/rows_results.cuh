// Sums of a library, or of several planes, made into the results of a layer. A thread has
// four columns.
#pragma once

#include "rows.cuh"

namespace uqlib {

constexpr int kPiece = 4;

// Four numbers of 32 bits that follow each other, of which `count` exist; the others are
// zeros. `vector` says that all four lie together at a multiple of 16 bytes.
UQLIB_DEVICE void load_four(uint32_t (&words)[kPiece], const void* address, int count,
                            bool vector) {
  if (vector) {
    spread(words, load_once(static_cast<const Words4*>(address)));
    return;
  }
#pragma unroll
  for (int i = 0; i < kPiece; ++i)
    words[i] = i < count ? load_kept(static_cast<const uint32_t*>(address) + i) : 0u;
}

template <typename Out>
UQLIB_DEVICE void store_four(Out* y, const float (&values)[kPiece], int count, bool vector) {
  if (!vector) {
#pragma unroll
    for (int i = 0; i < kPiece; ++i)
      if (i < count) y[i] = from_float<Out>(values[i]);
  } else if constexpr (sizeof(Out) == 4) {
    *reinterpret_cast<Words4*>(y) = {
        bits_as<uint32_t>(values[0]), bits_as<uint32_t>(values[1]),
        bits_as<uint32_t>(values[2]), bits_as<uint32_t>(values[3])};
  } else {
    *reinterpret_cast<Words2*>(y) = {pair_of(values[0], values[1], Out()),
                                     pair_of(values[2], values[3], Out())};
  }
}

// Whether rows of so many numbers can be taken by four from an address on.
inline bool by_four(const void* address, int n_columns, size_t bytes) {
  return n_columns % kPiece == 0 && reinterpret_cast<uintptr_t>(address) % (4 * bytes) == 0;
}

struct AddPlanes {
  const float* parts;
  const float* bias;  // or null
  void* y;
  int n_rows, n_out, row_shift;
  bool reads_four, writes_four;
};

// The last part is the least, and is added first.
template <typename Out>
UQLIB_KERNEL UQLIB_THREADS(256) add_planes(const AddPlanes p) {
  const Cell cell = cell_of(p.row_shift);
  const int column = kPiece * cell.piece, count = p.n_out - column;
  if (cell.row >= p.n_rows || count <= 0) return;
  const float* parts = p.parts + cell.row * 3 * p.n_out + column;
  uint32_t part[3][kPiece];
#pragma unroll
  for (int i = 0; i < 3; ++i)
    load_four(part[i], parts + static_cast<int64_t>(i) * p.n_out, count, p.reads_four);
  float values[kPiece];
#pragma unroll
  for (int i = 0; i < kPiece; ++i) {
    values[i] = bits_as<float>(part[2][i]) + bits_as<float>(part[1][i]);
    values[i] += bits_as<float>(part[0][i]);
    if (p.bias != nullptr && i < count) values[i] += load_kept(p.bias + column + i);
  }
  store_four(static_cast<Out*>(p.y) + cell.row * p.n_out + column, values, count,
             p.writes_four);
}

struct ScaleSums {
  const int32_t* sums;
  const int32_t* row_sums;  // or null: all zero points are the center
  const float* row_scale;
  const float* scale;
  const float* zero;  // or null
  const float* bias;  // or null
  void* y;
  float uniform_zero, center;
  int n_rows, n_out, n_padded, row_shift;
  bool reads_four, writes_four;
};

constexpr int kRowsOfThread = 4;  // by which what belongs to columns is shared

// With R the sum of the codes of a row of x and c the center,
//
//     y = t s (S + (c - z) R) + b.
//
// S may need 31 bits, and cancels against the second term where the zero point is far from
// the center: all is done in double precision, which leaves one rounding that matters. The
// GPUs in question have half as many units for it as for single precision, far more than
// memory can feed.
template <typename Out>
UQLIB_KERNEL UQLIB_THREADS(256) scale_sums(const ScaleSums p) {
  const Cell cell = cell_of(p.row_shift);
  const int column = kPiece * cell.piece, count = p.n_out - column;
  if (count <= 0) return;
  uint32_t sums[kRowsOfThread][kPiece];
  const int64_t n_blocks = grid_size().x, in_block = block_size().x >> p.row_shift;
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    const int64_t row = cell.row + r * n_blocks * in_block;
    if (row < p.n_rows)
      load_four(sums[r], p.sums + row * p.n_padded + column, count, p.reads_four);
  }
  double correction[kPiece], scale[kPiece], bias[kPiece];
#pragma unroll
  for (int i = 0; i < kPiece; ++i) {
    correction[i] = scale[i] = bias[i] = 0.0;
    if (i >= count) continue;
    const float zero = p.zero == nullptr ? p.uniform_zero : load_kept(p.zero + column + i);
    correction[i] = static_cast<double>(p.center) - static_cast<double>(zero);
    scale[i] = load_kept(p.scale + column + i);
    if (p.bias != nullptr) bias[i] = load_kept(p.bias + column + i);
  }
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    const int64_t row = cell.row + r * n_blocks * in_block;
    if (row >= p.n_rows) continue;
    const double row_scale = load_kept(p.row_scale + row);
    const double row_sum = p.row_sums == nullptr ? 0 : load_kept(p.row_sums + row);
    float values[kPiece];
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      const double sum = static_cast<int32_t>(sums[r][i]);
      values[i] = static_cast<float>(
          fma(row_scale * scale[i], fma(correction[i], row_sum, sum), bias[i]));
    }
    store_four(static_cast<Out*>(p.y) + row * p.n_out + column, values, count,
               p.writes_four);
  }
}

}  // namespace uqlib
