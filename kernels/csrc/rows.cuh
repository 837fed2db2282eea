// Rows of floats in the columns of a weight, and what all kernels around the products share
// (rows_quantize.cuh, rows_results.cuh, dequantize.cuh).
//
// All of them are bound by memory. Padded columns are taken by eight, a `Run`, which is 16
// bytes of numbers of 16 bits, and lies in one group.
#pragma once

#include "layout.cuh"

namespace uqlib {

// Whether columns are those of a weight of some bits; 4 where only their order matters.
inline bool are_valid(const Columns* c, int bits = 4) {
  if (c == nullptr || (bits != 8 && bits != 4 && bits != 2 && bits != 1)) return false;
  if (c->n_in < 1 || c->whole < 1 || c->inner < 1 || c->parts < 1 || c->n_groups < 1)
    return false;
  const int64_t inner = c->inner, group = c->group_columns;
  const int64_t n_whole = (static_cast<int64_t>(c->n_in) - 1) / c->whole + 1;
  return group >= inner && group % (bits == 8 ? 64 : 32) == 0 &&
         inner * c->parts >= c->whole && n_whole * c->parts == c->n_groups &&
         group * c->n_groups <= c->n_columns && c->n_columns % columns_of_step(bits) == 0;
}

// The columns of a run as they lie in memory, zeros for padding.
template <typename T>
struct Eight {
  static constexpr int kWords = kRun * sizeof(T) / 4;
  uint32_t words[kWords];

  UQLIB_DEVICE void load(const T* row, Run run) {
    const T* from = row + run.column;
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = 0;
    if (run.count == kRun && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
#pragma unroll
      for (int i = 0; i < kWords / 4; ++i)
        spread(words + 4 * i, load_once(reinterpret_cast<const Words4*>(from) + i));
    } else {
#pragma unroll
      for (int i = 0; i < kRun; ++i)
        if (i < run.count) put(i, from[i]);
    }
  }
  UQLIB_DEVICE float number(int i) const {
    if constexpr (sizeof(T) == 4)
      return bits_as<float>(words[i]);
    else
      return to_float(T{static_cast<uint16_t>(words[i / 2] >> 16 * (i % 2))});
  }

 private:
  UQLIB_DEVICE void put(int i, T value) {
    if constexpr (sizeof(T) == 4)
      words[i] = bits_as<uint32_t>(value);
    else
      words[i / 2] |= static_cast<uint32_t>(value.bits) << 16 * (i % 2);
  }
};

// The threads that share a row are a power of two between 32 and `most`, one for each of
// its pieces if there are as many; this is its exponent. Short rows share a block of 256.
inline int shift_of_row(int pieces, int most) {
  int shift = 5;
  while (1 << shift < pieces && 1 << shift < most) ++shift;
  return shift;
}
inline int rows_of_block(int row_shift) { return row_shift < 8 ? 256 >> row_shift : 1; }

struct PlaceRows {
  const void* x;
  void* out;
  Columns columns;
  int n_rows, row_shift;
};

// Which piece of which row is a thread's, in a grid of rows and pieces.
struct Cell {
  int64_t row;
  int piece;
};
UQLIB_DEVICE Cell cell_of(int row_shift) {
  const int thread = thread_index().x, rows = block_size().x >> row_shift;
  return {static_cast<int64_t>(block_index().x) * rows + (thread >> row_shift),
          (static_cast<int>(block_index().y) << row_shift) +
              (thread & ((1 << row_shift) - 1))};
}

// The first 16 bits of each float of a run.
UQLIB_DEVICE Words4 upper_halves(const uint32_t (&words)[kRun]) {
  return {permute_bytes(words[0], words[1], 0x7632u),
          permute_bytes(words[2], words[3], 0x7632u),
          permute_bytes(words[4], words[5], 0x7632u),
          permute_bytes(words[6], words[7], 0x7632u)};
}

// Numbers of 16 bits are moved as they are. A float becomes three of BFloat16: its first 8
// bits of 24, the next 8 and the last, each cut off and not rounded, so that no part
// overflows. They are exact unless the last part is below 2^-133. Infinity and NaN leave
// nothing to the other parts, and products with them are what they are without parts.
template <typename T>
UQLIB_KERNEL UQLIB_THREADS(256) place_rows(const PlaceRows p) {
  const Cell cell = cell_of(p.row_shift);
  const int place = kRun * cell.piece;
  if (cell.row >= p.n_rows || place >= p.columns.n_columns) return;
  Eight<T> run;
  run.load(static_cast<const T*>(p.x) + cell.row * p.columns.n_in,
           run_at(p.columns, place));
  const int64_t step = p.columns.n_columns / kRun;  // from row to row
  Words4* out = static_cast<Words4*>(p.out) + cell.piece;
  if constexpr (sizeof(T) == 2) {
    out[cell.row * step] = {run.words[0], run.words[1], run.words[2], run.words[3]};
  } else {
    out += cell.row * 3 * step;
#pragma unroll
    for (int i = 0; i < kRun; ++i)  // all that makes a NaN may lie in the bits cut off
      if ((run.words[i] & 0x7FFFFFFFu) > 0x7F800000u) run.words[i] = 0x7FC00000u;
#pragma unroll
    for (int part = 0; part < 3; ++part) {
      out[part * step] = upper_halves(run.words);
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const uint32_t first = run.words[i] & 0xFFFF0000u;
        const bool finite = (first & 0x7F800000u) != 0x7F800000u;
        const float rest = run.number(i) - bits_as<float>(first);
        run.words[i] = finite ? bits_as<uint32_t>(rest) : 0u;
      }
    }
  }
}

}  // namespace uqlib
