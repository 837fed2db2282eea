// Rows rounded to bytes, each with a scale of its own, or all with one that is given,
//
//     t = max_k |x[k]| / top,      a[k] = clip(rint(x[k] / t), -top, top),
//
// with the bits of divisions in single precision, but without a division for each column.
// Let y = RN(1 / t), where RN rounds to nearest. From q = RN(x y), which is off by 2 units
// in the last place at most, the step q <- RN(q + (x - q t) y), all in fused
// operations, makes a number off by less than one unit; and from such a number it makes
// RN(x / t), since then x - q t is exact (Markstein 1990). That holds while no part leaves
// the normal range: t is brought there by a power of two, x with it, which changes no
// quotient. Only quotients below 1/4 may be wrong then, where x - q t is rounded, and
// their codes are 0 all the same.
#pragma once

#include "rows.cuh"

namespace uqlib {

struct QuantizeRows {
  const void* x;
  int8_t* codes;
  int32_t* sums;  // or null
  float* row_scale;
  Columns columns;
  int n_rows, row_shift;
  float top;
  float static_scale;  // of all rows; 0 gives each its own
  // A unit is 16 bytes of codes: lane t of a tile has two runs, which begin at the columns
  // unit_step t and unit_step t + run_step of it, the bytes of each in the order of both
  // selectors.
  int unit_step, run_step;
  uint32_t low_bytes, high_bytes;

  void set_order(int bits) {
    unit_step = bits == 8 ? 16 : 8;
    run_step = bits == 8 ? 8 : 32;
    low_bytes = high_bytes = 0;
    for (int i = 0; i < kRun; ++i) {
      const int to = place_of_input(bits, i);
      (to < 4 ? low_bytes : high_bytes) |= static_cast<uint32_t>(i) << 4 * (to % 4);
    }
  }
};

constexpr int kMostRowThreads = 512;
constexpr int kMostRowWarps = kMostRowThreads / kLanes;
// Units that a thread keeps in registers; those of longer rows are read again.
template <typename T>
inline constexpr int kHeldUnits = sizeof(T) == 2 ? 2 : 1;

inline size_t shared_of_quantize(int rows, const Columns& columns, bool with_sums) {
  const size_t sums = with_sums ? static_cast<size_t>(rows) * (columns.n_columns / 32) : 0;
  return sizeof(int32_t) * (kMostRowWarps + sums);
}

struct RowRounding {
  float factor, scale, inverse, top;  // scale is that of x times factor
  float reach;                        // beyond which x times factor is cut off
  bool finite, plain;

  // From the bits of the largest absolute value; those of infinity and NaN are larger
  // than all others. Returns what codes are to be multiplied by.
  UQLIB_DEVICE float set(int32_t largest, float top_code, float static_scale) {
    float step = bits_as<float>(largest) / top_code;
    if (step == 0.0f) step = 1.0f;
    if (static_scale > 0.0f) step = static_scale;
    finite = largest < 0x7F800000;
    top = top_code;
    factor = step < 0x1p-90f ? 0x1p100f : step > 0x1p100f ? 0x1p-100f : 1.0f;
    plain = finite && factor == 1.0f && static_scale == 0.0f;
    scale = step * factor;
    reach = (top + 1.0f) * scale;  // a number there has the last code already
    inverse = 1.0f / scale;
    return finite ? step : NAN;
  }
  // A code in the last byte of a float, 3 2^22 plus it: the sum rounds to whole numbers,
  // ties to even. No quotient rounds beyond `top`, unless t itself was rounded from less
  // than 24 bits.
  template <bool kPlain>
  UQLIB_DEVICE uint32_t code(float x) const {
    if constexpr (!kPlain) x = fminf(fmaxf(x * factor, -reach), reach);
    float q = x * inverse;
    q = fmaf(fmaf(-q, scale, x), inverse, q);
    q = fmaf(fmaf(-q, scale, x), inverse, q);
    if constexpr (!kPlain) q = fminf(fmaxf(q, -top), top);
    return bits_as<uint32_t>(q + 12582912.0f);
  }
  // The bytes of a run in the order of its columns; returns their sum.
  template <bool kPlain, typename T>
  UQLIB_DEVICE int32_t round(const Eight<T>& run, uint32_t (&bytes)[2]) const {
    uint32_t sum = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t code_of[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        code_of[i] = code<kPlain>(run.number(4 * half + i));
        sum += code_of[i];
      }
      bytes[half] = permute_bytes(permute_bytes(code_of[0], code_of[1], 0x0040u),
                                  permute_bytes(code_of[2], code_of[3], 0x0040u), 0x5410u);
      if (!kPlain && !finite) bytes[half] = 0;
    }
    return kPlain || finite ? static_cast<int32_t>(sum - kRun * 0x4B400000u) : 0;
  }
};

template <typename T>
struct Unit {
  Eight<T> runs[2];

  UQLIB_DEVICE void load(const QuantizeRows& p, const T* row, int unit) {
    const int first = (unit >> 2) * kTileColumns + (unit & 3) * p.unit_step;
    runs[0].load(row, run_at(p.columns, first));
    runs[1].load(row, run_at(p.columns, first + p.run_step));
  }
  UQLIB_DEVICE int32_t largest(int32_t so_far) const {
#pragma unroll
    for (int i = 0; i < 2 * kRun; ++i) {
      const int32_t bits =
          bits_as<int32_t>(runs[i / kRun].number(i % kRun)) & 0x7FFFFFFF;
      so_far = bits > so_far ? bits : so_far;
    }
    return so_far;
  }
  // Writes the codes; the sums of run h of the four lanes of a tile become halves[h]. All
  // lanes of a warp take part, also those without a unit.
  UQLIB_DEVICE void round(const QuantizeRows& p, const RowRounding& rounding, bool valid,
                          int unit, int8_t* codes, int32_t* halves) const {
    uint32_t bytes[2][2];
    int32_t sums[2];
#pragma unroll
    for (int run = 0; run < 2; ++run)
      sums[run] = rounding.plain ? rounding.round<true>(runs[run], bytes[run])
                                 : rounding.round<false>(runs[run], bytes[run]);
    if (valid) {
      reinterpret_cast<Words4*>(codes)[unit] = {
          permute_bytes(bytes[0][0], bytes[0][1], p.low_bytes),
          permute_bytes(bytes[0][0], bytes[0][1], p.high_bytes),
          permute_bytes(bytes[1][0], bytes[1][1], p.low_bytes),
          permute_bytes(bytes[1][0], bytes[1][1], p.high_bytes)};
    }
    if (halves == nullptr) return;
    // Sums of 32 codes fit 16 bits: both go together.
    int32_t both = sums[0] + sums[1] * 65536;
    both += shuffle_xor(both, 1);
    both += shuffle_xor(both, 2);
    const int32_t low = static_cast<int16_t>(both);
    if (valid && (unit & 3) == 0) {
      halves[unit / 2] = low;
      halves[unit / 2 + 1] = (both - low) >> 16;
    }
  }
};

// Sums of groups from those of half tiles, by neighboring lanes for each group.
UQLIB_DEVICE void sum_groups(const Columns& columns, const int32_t* halves, int thread,
                             int row_threads, bool valid, int32_t* sums) {
  const int per_group = columns.group_columns / 32;
  int shift = 0;
  while (1 << shift < per_group && shift < 5) ++shift;
  const int width = 1 << shift, lane = thread & (width - 1);
  for (int first = 0; first < columns.n_groups; first += row_threads >> shift) {
    const int group = first + (thread >> shift);
    int32_t sum = 0;
    if (group < columns.n_groups)
      for (int i = lane; i < per_group; i += width) sum += halves[group * per_group + i];
    for (int mask = 1; mask < width; mask *= 2) sum += shuffle_xor(sum, mask);
    if (valid && group < columns.n_groups && lane == 0) sums[group] = sum;
  }
}

template <typename T>
UQLIB_KERNEL UQLIB_THREADS(kMostRowThreads) quantize_rows(const QuantizeRows p) {
  const int row_threads = 1 << p.row_shift;
  const int in_block = thread_index().x >> p.row_shift;
  const int thread = thread_index().x & (row_threads - 1);
  const int64_t row =
      static_cast<int64_t>(block_index().x) * (block_size().x >> p.row_shift) + in_block;
  const bool is_row = row < p.n_rows;
  const int n_units = is_row ? p.columns.n_columns / 16 : 0;
  const T* x = static_cast<const T*>(p.x) + row * p.columns.n_in;

  Unit<T> held[kHeldUnits<T>] = {};
  int32_t largest = 0;
#pragma unroll
  for (int i = 0; i < kHeldUnits<T>; ++i) {
    const int unit = thread + i * row_threads;
    if (unit < n_units) held[i].load(p, x, unit);
  }
#pragma unroll
  for (int i = 0; i < kHeldUnits<T>; ++i) largest = held[i].largest(largest);
  const int first_other = thread + kHeldUnits<T> * row_threads;
  for (int unit = first_other; unit < n_units; unit += row_threads) {
    Unit<T> other;
    other.load(p, x, unit);
    largest = other.largest(largest);
  }

  int32_t* of_warps = shared_memory<int32_t>();
#pragma unroll
  for (int mask = 1; mask < kLanes; mask *= 2) {
    const int32_t other = shuffle_xor(largest, mask);
    largest = other > largest ? other : largest;
  }
  of_warps[thread_index().x / kLanes] = largest;
  sync_block();
  const int n_warps = row_threads / kLanes;
  for (int i = 0; i < n_warps; ++i) {
    const int32_t other = of_warps[in_block * n_warps + i];
    largest = other > largest ? other : largest;
  }
  RowRounding rounding;
  const float scale = rounding.set(largest, p.top, p.static_scale);
  if (is_row && thread == 0) p.row_scale[row] = scale;

  int8_t* codes = p.codes + row * p.columns.n_columns;
  int32_t* halves = nullptr;
  if (p.sums != nullptr)
    halves = of_warps + kMostRowWarps + in_block * (p.columns.n_columns / 32);
#pragma unroll
  for (int i = 0; i < kHeldUnits<T>; ++i) {
    const int unit = thread + i * row_threads;
    if (i * row_threads < n_units)
      held[i].round(p, rounding, unit < n_units, unit, codes, halves);
  }
  for (int unit = first_other; unit - thread < n_units; unit += row_threads) {
    Unit<T> other = {};
    if (unit < n_units) other.load(p, x, unit);
    other.round(p, rounding, unit < n_units, unit, codes, halves);
  }
  if (p.sums == nullptr) return;
  sync_block();
  sum_groups(p.columns, halves, thread, row_threads, is_row,
             p.sums + row * p.columns.n_groups);
}

}  // namespace uqlib
