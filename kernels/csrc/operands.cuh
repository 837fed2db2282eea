// Both operands of a product on tensor cores, as a lane holds them of a tile.
//
// `Operands<T, kBits, kCodebook>` is the one place that knows how the codes of a weight
// and the inputs become registers; the kernels of products are written over it. T is the
// type of the inputs: Half, BFloat16, or int8_t for rows rounded to bytes. With
//
//     c = 8 (4 bits, integers), 128 (8 bits), 0 (else)
//
// a product of integers sums (q - c) a, times 16 for 4 bits, and `Sum` is exact; with
// floats it sums (q - z) x, where q - z is exact if 2 z is whole, or C[q] x.
#pragma once

#include "product.h"

namespace uqlib {

// Groups have a multiple of 32 columns, of 64 with 8 bits: `kHalves` products of a tile
// of 64 columns may differ in their scales.
template <int kBits>
inline constexpr int kHalves = kBits == 8 ? 1 : 2;

template <typename T>
struct OffsetOf;  // the number whose low bits of mantissa hold a code
template <>
struct OffsetOf<Half> {
  static constexpr uint32_t bits = 0x64006400u;
  static constexpr float value = 1024.0f;
};
template <>
struct OffsetOf<BFloat16> {
  static constexpr uint32_t bits = 0x43004300u;
  static constexpr float value = 128.0f;
};

// The zero points of rows g and g + 8 of a lane, as pairs of T. 1024 + z has no fraction in
// half precision, so what is behind the point is taken off in a second step, which is
// exact for halves; so is what lies far beyond the codes, which the offset has no room for.
template <typename T>
struct Zeros {
  uint32_t whole[2], rest[2];
  float value[2];

  UQLIB_DEVICE void set(int row, float zero) {
    const float below = fminf(fmaxf(floorf(zero), -64.0f), 64.0f);
    const float offset = OffsetOf<T>::value + below;
    value[row] = zero;
    whole[row] = pair_of(offset, offset, T());
    rest[row] = pair_of(zero - below, zero - below, T());
  }
};

// Floats: products m16n8k16, four to a tile, j = 0, ..., 3.
template <typename T, int kBits, bool kCodebook>
struct Operands {
  static_assert(!kCodebook || kBits == 4);
  using Sum = float;
  static constexpr int kProducts = 4;  // of a tile; half h of its columns has two of them
  static constexpr int kInputWords = 8;  // of a tile of x that a lane holds

  // First column of both runs of 8 inputs of lane 4 g + t within a tile.
  UQLIB_DEVICE static int input_column(int t, int run) {
    return kBits == 8 ? 16 * t + 8 * run : 32 * run + 8 * t;
  }

  // Registers of product j. `words` are those of the lane of a tile: kBits words; with 8
  // bits four of row g, then four of row g + 8. `table` is `Product::pairs`, each entry
  // 32 times, for every lane its own.
  UQLIB_DEVICE static void registers(uint32_t (&a)[4], const uint32_t* words, int j,
                                     const Zeros<T>& zeros, const uint32_t* table, int lane) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      if constexpr (kBits == 8) {
        a[r] = of_bytes(words[4 * (r % 2) + j], r / 2, zeros.value[r % 2]);
      } else if constexpr (kCodebook) {
        const uint32_t codes = pair_of_codes<4>(words, j, r);
        a[r] = table[((codes | codes >> 12) & 0xFFu) * kLanes + lane];
      } else {
        // The upper bit of a code of 4 bits is stored inverted.
        constexpr uint32_t flip = kBits == 4 ? 0x00080008u : 0u;
        const uint32_t number =
            pair_of_codes<kBits>(words, j, r) ^ (OffsetOf<T>::bits | flip);
        a[r] = subtract_pairs(subtract_pairs(number, zeros.whole[r % 2], T()),
                              zeros.rest[r % 2], T());
      }
    }
  }

 private:
  // Two signed bytes q - 128 of a word as numbers q - z: by way of single precision,
  // where 2^23 + q has q in its last bits.
  UQLIB_DEVICE static uint32_t of_bytes(uint32_t word, int upper, float zero) {
    constexpr float offset = 8388608.0f;
    const uint32_t codes = word ^ 0x80808080u;
    const uint32_t low = permute_bytes(codes, 0x4B000000u, upper ? 0x7552u : 0x7550u);
    const uint32_t high = permute_bytes(codes, 0x4B000000u, upper ? 0x7553u : 0x7551u);
    return pair_of(as_float(low) - offset - zero, as_float(high) - offset - zero, T());
  }
  UQLIB_DEVICE static float as_float(uint32_t bits) {
    union {
      uint32_t bits;
      float value;
    } both = {bits};
    return both.value;
  }
};

// Integers: products m16n8k32, two to a tile, h = 0, 1.
template <int kBits>
struct Operands<int8_t, kBits, false> {
  using Sum = int32_t;
  static constexpr int kProducts = 2;
  static constexpr int kInputWords = 4;
  // What was taken off each code, and the factor of the sums.
  static constexpr float kCenter = kBits == 8 ? 128.0f : kBits == 4 ? 8.0f : 0.0f;
  static constexpr float kFactor = kBits == 4 ? 0.0625f : 1.0f;

  // The run of 16 inputs of a lane: one, the second is not used.
  UQLIB_DEVICE static int input_column(int t, int) { return 16 * t; }

  UQLIB_DEVICE static void registers(uint32_t (&a)[4], const uint32_t* words, int h) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      if constexpr (kBits == 8)
        a[r] = words[4 * (r % 2) + 2 * h + r / 2];
      else
        a[r] = bytes_of_codes<kBits>(words, h, r);
    }
  }
};

// Registers of the other operand: `inputs` are the words of x of a lane of a tile.
UQLIB_DEVICE void input_registers(uint32_t (&b)[2], const uint32_t* inputs, int product) {
  b[0] = inputs[2 * product];
  b[1] = inputs[2 * product + 1];
}

}  // namespace uqlib
