// Both operands of a product on tensor cores, as a lane holds them of a tile.
//
// `Operands<T, kBits, kCodebook>` is the one place that knows how the codes of a weight
// and the inputs become registers; the kernels of products are written over it. T is the
// type of the inputs: Half, BFloat16, or int8_t for rows rounded to bytes. Of a code q, or
// its value C[q] in a codebook, q - c is what is multiplied, for a number c, the center,
// that makes it exact in the type of x (values of a codebook are of that type, and c is 0).
// With the sums S of these products and X of the inputs, a group of columns with scale s
// and zero point z adds
//
//     s (S + (c - z) X),
//
// so that no weight is ever rounded. Where z = c for all groups, which is what c is if
// that can be, X is not needed. For integers S is an integer, times 1 / kFactor.
#pragma once

#include <type_traits>

#include "product.h"

namespace uqlib {

// Groups have a multiple of 32 columns, of 64 with 8 bits: `kHalves` products of a tile
// of 64 columns may differ in their scales.
template <int kBits>
inline constexpr int kHalves = kBits == 8 ? 1 : 2;

// c of floats. All q - z are exact if z is whole and among the codes, or just above them;
// with fewer than 4 bits z may also lie in the middle of two codes (see Center).
inline float float_center(const Product& p, int bits) {
  if (p.pairs != nullptr) return 0.0f;
  const float z = p.uniform_zero, steps = bits < 4 ? 2.0f * z : z;
  const bool is_exact = z >= 0.0f && z <= static_cast<float>(1 << bits) &&
                        steps == std::floor(steps);
  if (p.zero == nullptr && is_exact) return z;
  return bits < 4 ? 0.5f * static_cast<float>((1 << bits) - 1) : integer_center(bits);
}
// Whether some z is not the center, so that X is needed.
inline bool has_rest(const Product& p, float center) {
  return p.zero != nullptr || p.uniform_zero != center;
}

// The center, and how it is taken off codes in one subtraction: parameters of a kernel,
// since an instruction takes but one constant of its own, the mask of a code.
//
// A code q of fewer than 8 bits at bit p of the mantissa of 2^(m - p), m being the bits of
// a mantissa, makes it 2^(m - p) + q: a code need not come down to bit 0, so that one shift
// serves several registers. What is subtracted is 2^(m - p) + c, whose mantissa has c at
// bit p: exact if 0 <= c <= 2^bits and c, for p > 0 (fewer than 4 bits) 2 c, is whole.
// `near[0][p]` and `near[1][p]` are both, in both halves of a word. 8 bits go by way of
// single precision, where 2^23 + q has q in its last bits; `far` is 2^23 + c.
struct Center {
  float value, far;
  uint32_t near[2][5];
};

// A codebook: pair c0 + 16 c1 of codes lies 32 times in shared memory, so that every lane
// has its own bank.
constexpr int kPairsBytes = 256 * kLanes * 4;

// Fills this table, with all threads of the block.
UQLIB_DEVICE void spread_pairs(char* table, const uint32_t* pairs) {
  for (int i = thread_index().x; i < kPairsBytes / 16; i += block_size().x) {
    const uint32_t pair = load_kept(pairs + i / (kLanes / 4));
    reinterpret_cast<Words4*>(table)[i] = {pair, pair, pair, pair};
  }
}

// Floats: products m16n8k16, four to a tile, j = 0, ..., 3.
template <typename T, int kBits, bool kCodebook>
struct Operands {
  static_assert(!kCodebook || kBits == 4);
  using Sum = float;
  static constexpr int kProducts = 4;  // of a tile; half h of its columns has two of them
  static constexpr int kInputWords = 8;  // of a tile of x that a lane holds
  static constexpr float kFactor = 1.0f;

  // First column of both runs of 8 inputs of lane 4 g + t within a tile.
  UQLIB_DEVICE static int input_column(int t, int run) {
    return kBits == 8 ? 16 * t + 8 * run : 32 * run + 8 * t;
  }

  static Center center_of(const Product& p) {
    Center center{};
    center.value = float_center(p, kBits);
    center.far = kAbove + center.value;
    for (int at = kLeast; at < 5; ++at) {
      // Codes of 4 bits have their upper bit inverted.
      const uint32_t power = static_cast<uint32_t>(kBias + kMantissa - at) << kMantissa;
      const uint32_t flip = kBits == 4 ? 8u << at : 0u;
      const uint32_t above = (static_cast<uint32_t>(2.0f * center.value) << at) / 2;
      center.near[0][at] = (power | flip) * 0x00010001u;
      center.near[1][at] = (power + above) * 0x00010001u;
    }
    return center;
  }

  // Registers of product j. `words` are those of the lane of a tile: kBits words; with 8
  // bits four of row g, then four of row g + 8. `table` is that of `spread_pairs`.
  UQLIB_DEVICE static void registers(uint32_t (&a)[4], const uint32_t* words, int j,
                                     const Center& center, const char* table, int lane) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      if constexpr (kBits == 8)
        a[r] = of_bytes(words[4 * (r % 2) + j], r / 2, center.far);
      else if constexpr (kCodebook)
        a[r] = of_book(words[word_of_pair(4, j)], bit_of_pair(4, j, r), table, lane);
      else
        a[r] = of_codes(words[word_of_pair(kBits, j)], bit_of_pair(kBits, j, r), center);
    }
  }

 private:
  static constexpr bool kHalf = std::is_same_v<T, Half>;
  static constexpr int kMantissa = kHalf ? 10 : 7, kBias = kHalf ? 15 : 127;
  static constexpr int kLeast = kBits == 4 ? 0 : 1;
  static constexpr float kAbove = 8388608.0f;  // 2^23

  // Codes at bits `bit` and `bit` + 16 of a word.
  UQLIB_DEVICE static uint32_t of_codes(uint32_t word, int bit, const Center& center) {
    const int p = kLeast + bit % (kHalf && kBits == 4 ? 8 : 4);
    const uint32_t mask = ((1u << kBits) - 1u) * 0x00010001u << p;
    const uint32_t codes = (bit >= p ? word >> (bit - p) : word << (p - bit)) & mask;
    return subtract_pairs(codes ^ center.near[0][p], center.near[1][p], T());
  }
  // Both codes to their values. Byte 128 (c0 + 16 c1) + 4 lane is put together of the word.
  UQLIB_DEVICE static uint32_t of_book(uint32_t word, int bit, const char* table, int lane) {
    const uint32_t first = bit < 7 ? word << (7 - bit) : word >> (bit - 7);
    const uint32_t second = word >> (bit + 5);
    const uint32_t at =
        (first & 0x0780u) | ((second & 0x7800u) | static_cast<uint32_t>(4 * lane));
    return *reinterpret_cast<const uint32_t*>(table + at);
  }
  // Two signed bytes q - 128 of a word.
  UQLIB_DEVICE static uint32_t of_bytes(uint32_t word, int upper, float far) {
    const uint32_t above = 0x4B000000u, codes = word ^ 0x80808080u;  // the bits of 2^23
    const uint32_t low = permute_bytes(codes, above, upper ? 0x7552u : 0x7550u);
    const uint32_t high = permute_bytes(codes, above, upper ? 0x7553u : 0x7551u);
    return pair_of(bits_as<float>(low) - far, bits_as<float>(high) - far, T());
  }
};

// Integers: products m16n8k32, two to a tile, h = 0, 1.
template <int kBits>
struct Operands<int8_t, kBits, false> {
  using Sum = int32_t;
  static constexpr int kProducts = 2;
  static constexpr int kInputWords = 4;
  static constexpr float kFactor = kBits == 4 ? 0.0625f : 1.0f;

  // The run of 16 inputs of a lane: one, the second is not used.
  UQLIB_DEVICE static int input_column(int t, int) { return 16 * t; }

  static Center center_of(const Product&) {
    Center center{};
    center.value = integer_center(kBits);
    return center;
  }

  UQLIB_DEVICE static void registers(uint32_t (&a)[4], const uint32_t* words, int h,
                                     const Center&, const char*, int) {
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
