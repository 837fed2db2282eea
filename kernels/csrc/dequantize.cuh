// Packed weights as matrices, for products with many rows, which are a library's. A warp
// has a step of 16 rows and writes what it reads: 8 columns of a row at a time.
#pragma once

#include "product.h"
#include "rows.cuh"

namespace uqlib {

struct Dequantize {
  Product product;
  Columns columns;
  const float* codebook;
  void* matrix;
  unsigned n_steps, n_blocks_of_rows;  // blocks that share 16 rows
};

constexpr int kStepWarps = 8;

// A step of a weight as a lane holds it.
template <int kBits>
struct StepCodes {
  static constexpr int kTiles = kBits == 8 ? 1 : tiles_of_step(kBits);
  int tile_row, first_tile, lane;
  uint32_t words[kBits == 8 ? 8 : 4];

  // False where a warp has none.
  UQLIB_DEVICE bool load(const Dequantize& p) {
    const unsigned thread = thread_index().x, block = block_index().x;
    const unsigned step = block % p.n_blocks_of_rows * kStepWarps + thread / kLanes;
    if (step >= p.n_steps) return false;
    tile_row = static_cast<int>(block / p.n_blocks_of_rows);
    first_tile = static_cast<int>(step) * kTiles;
    lane = static_cast<int>(thread % kLanes);
    const Words4* weight = static_cast<const Words4*>(p.product.weight);
    if constexpr (kBits == 8) {
      const int64_t row_step = p.product.n_columns / 16;
      const Words4* from = weight + row(0) * row_step + 4 * first_tile + lane % 4;
      spread(words, load_once(from));
      spread(words + 4, load_once(from + 8 * row_step));
    } else {
      const int64_t index = static_cast<int64_t>(tile_row) * p.n_steps + step;
      spread(words, load_once(weight + index * kLanes + lane));
    }
    return true;
  }
  // Row of the weight: the one of the lane, or 8 below; and the first column of a run.
  UQLIB_DEVICE int64_t row(int lower) const {
    return static_cast<int64_t>(tile_row) * kTileRows + lane / 4 + 8 * lower;
  }
  UQLIB_DEVICE int column(int tile, int run) const {
    const int t = lane % 4;
    const int within = kBits == 8 ? 16 * t + 8 * run : 32 * run + 8 * t;
    return (first_tile + tile) * kTileColumns + within;
  }
  // The codes q of a run of a row; those of 4 bits are stored as q xor `flip`.
  UQLIB_DEVICE void codes(uint32_t (&q)[kRun], int tile, int run, int lower,
                          uint32_t flip) const {
#pragma unroll
    for (int i = 0; i < kRun; i += 2) {
      if constexpr (kBits == 8) {
        const uint32_t word = words[4 * lower + 2 * run + i / 4] ^ 0x80808080u;
        q[i] = word >> 8 * (i % 4) & 0xFFu;
        q[i + 1] = word >> 8 * (i % 4 + 1) & 0xFFu;
      } else {
        const uint32_t pair =
            pair_of_codes<kBits>(words + kBits * tile, 2 * run + i / 4, i % 4 + lower) ^
            flip * 0x00010001u;
        q[i] = pair & 0xFFFFu;
        q[i + 1] = pair >> 16;
      }
    }
  }
};

// Makes (v - z) s of values, rounded once, with the bits that double precision gives. For
// codes and a z that is a whole number of halves v - z is exact, and single precision does
// as well.
struct GroupOfRow {
  float scale, zero;
  bool exact;

  // `at` is the place among the scales.
  UQLIB_DEVICE void load(const Product& p, int64_t at, bool are_codes) {
    scale = load_kept(p.scale + at);
    zero = p.zero == nullptr ? p.uniform_zero : load_kept(p.zero + at);
    exact = are_codes ? fabsf(zero) < 65536.0f && floorf(2.0f * zero) == 2.0f * zero
                      : zero == 0.0f;
  }
  UQLIB_DEVICE void apply(float (&v)[kRun]) const {
    if (exact) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) v[i] = (v[i] - zero) * scale;
    } else {
#pragma unroll
      for (int i = 0; i < kRun; ++i)
        v[i] = static_cast<float>((static_cast<double>(v[i]) - static_cast<double>(zero)) *
                                  static_cast<double>(scale));
    }
  }
};

template <typename Out>
UQLIB_DEVICE void store_run(Out* to, const float (&v)[kRun], int count) {
  if (count == kRun && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
    Words4* four = reinterpret_cast<Words4*>(to);
    if constexpr (sizeof(Out) == 4) {
      four[0] = {bits_as<uint32_t>(v[0]), bits_as<uint32_t>(v[1]), bits_as<uint32_t>(v[2]),
                 bits_as<uint32_t>(v[3])};
      four[1] = {bits_as<uint32_t>(v[4]), bits_as<uint32_t>(v[5]), bits_as<uint32_t>(v[6]),
                 bits_as<uint32_t>(v[7])};
    } else {
      four[0] = {pair_of(v[0], v[1], Out()), pair_of(v[2], v[3], Out()),
                 pair_of(v[4], v[5], Out()), pair_of(v[6], v[7], Out())};
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kRun; ++i)
    if (i < count) to[i] = from_float<Out>(v[i]);
}

template <typename Out, int kBits, bool kCodebook>
UQLIB_KERNEL UQLIB_THREADS(kStepWarps* kLanes) dequantize(const Dequantize p) {
  // Sixteen words lie in as many banks: lanes read different ones at once.
  float* table = shared_memory<float>();
  if constexpr (kCodebook) {
    if (thread_index().x < 16) table[thread_index().x] = p.codebook[thread_index().x];
    sync_block();
  }
  StepCodes<kBits> step;
  if (!step.load(p)) return;
#pragma unroll
  for (int i = 0; i < 2 * StepCodes<kBits>::kTiles; ++i) {
    const int place = step.column(i / 2, i % 2);
    const Run run = run_at(p.columns, place);
    if (run.count == 0) continue;
    const int group = static_cast<unsigned>(place) / p.columns.group_columns;
    const int64_t scales =
        (static_cast<int64_t>(step.tile_row) * p.columns.n_groups + group) * kTileRows;
#pragma unroll
    for (int lower = 0; lower < 2; ++lower) {
      const int64_t row = step.row(lower);
      if (row >= p.product.n_true_out) continue;
      GroupOfRow of_row;
      of_row.load(p.product, scales + step.lane / 4 + 8 * lower, !kCodebook);
      uint32_t q[kRun];
      float values[kRun];
      step.codes(q, i / 2, i % 2, lower, kBits == 4 && !kCodebook ? 8u : 0u);
#pragma unroll
      for (int k = 0; k < kRun; ++k) {
        if constexpr (kCodebook)
          values[k] = table[q[k]];
        else  // 2^23 + q has q in its last bits
          values[k] = bits_as<float>(q[k] | 0x4B000000u) - 8388608.0f;
      }
      of_row.apply(values);
      store_run(static_cast<Out*>(p.matrix) + row * p.columns.n_in + run.column, values,
                run.count);
    }
  }
}

// Codes a byte each: q - 8 for 4 bits, else q.
template <int kBits>
UQLIB_KERNEL UQLIB_THREADS(kStepWarps* kLanes) expand_codes(const Dequantize p) {
  StepCodes<kBits> step;
  if (!step.load(p)) return;
#pragma unroll
  for (int i = 0; i < 4 * StepCodes<kBits>::kTiles; ++i) {
    const int tile = i / 4, run = i / 2 % 2, lower = i % 2;
    uint32_t q[kRun], bytes[2];
    step.codes(q, tile, run, lower, kBits == 4 ? 8u : 0u);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t c[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) c[k] = q[4 * half + k] - (kBits == 4 ? 8u : 0u);
      bytes[half] = permute_bytes(permute_bytes(c[0], c[1], 0x0040u),
                                  permute_bytes(c[2], c[3], 0x0040u), 0x5410u);
    }
    int8_t* to = static_cast<int8_t*>(p.matrix) +
                 step.row(lower) * p.product.n_columns + step.column(tile, run);
    *reinterpret_cast<Words2*>(to) = {bytes[0], bytes[1]};
  }
}

}  // namespace uqlib
