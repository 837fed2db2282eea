// What a warp of a skinny product does: reads steps of the weight, and adds products of
// its tiles. See skinny.cuh.
#pragma once

#include <type_traits>

#include "operands.cuh"

namespace uqlib {

constexpr int kPairsBytes = 256 * kLanes * 4;

// How a product is cut, and what a block keeps in its shared memory: the pairs of a
// codebook, sums of its warps, scales, zero points and rows of x.
struct SkinnyPlan {
  int n_warps, n_splits, n_row_blocks;
  int split_steps;       // of a part of the columns; the last one may have fewer
  int out;               // type of the results
  uint32_t reciprocal;   // of the halves of a tile in a group; see group_of_half
  bool halves_differ;    // whether a group may end within a tile; not with 8 bits
  int staged_groups;     // whose scales fit; 0: they are read where they lie
  int staged_row_bytes;  // of a copied row of x; 0: it is read where it lies
  uint32_t near[2][5];   // see NearCodes
  float center;          // c
};

// Group of the 32 columns that are number h: floor(h / u) for u = group_columns / 32, as
// the upper half of 2 h ceil(2^31 / u). That is exact while h u < 2^31.
UQLIB_BOTH uint32_t reciprocal_of(int u) {
  return static_cast<uint32_t>(((1ull << 31) + u - 1) / u);
}
UQLIB_BOTH int group_of_half(int h, uint32_t reciprocal) {
  return static_cast<int>((static_cast<uint64_t>(2u * h) * reciprocal) >> 32);
}

// What a lane holds of a step of the weight: `words` of each of its tiles.
template <int kBits>
struct Step {
  static constexpr int kTiles = kBits == 8 ? 1 : tiles_of_step(kBits);
  static constexpr int kColumns = kTiles * kTileColumns;
  static constexpr int kLoads = kBits == 8 ? 2 : 1;
  static constexpr int kAhead = kBits == 8 ? 3 : 4;  // steps in flight
  static constexpr int64_t kBytes = kBits == 8 ? kTileColumns : 16 * kLanes;

  const char* weight;  // of the lane, at the first step of a row
  int64_t second;      // 8 bits: from row g to row g + 8

  UQLIB_DEVICE Step(const Product& p, int tile, int lane) {
    weight = static_cast<const char*>(p.weight);
    if constexpr (kBits == 8) {
      second = int64_t{8} * p.n_columns;
      weight += static_cast<int64_t>(tile * kTileRows + lane / 4) * p.n_columns +
                16 * (lane % 4);
    } else {
      weight += (static_cast<int64_t>(tile) * (p.n_columns / kColumns) * kLanes + lane) * 16;
    }
  }
  UQLIB_DEVICE void load(Words4 (&to)[kLoads], int step) const {
    const char* from = weight + step * kBytes;
    to[0] = load_once(reinterpret_cast<const Words4*>(from));
    if constexpr (kLoads == 2)
      to[1] = load_once(reinterpret_cast<const Words4*>(from + second));
  }
};

UQLIB_DEVICE void spread(uint32_t* to, const Words4& from) {
  to[0] = from.x;
  to[1] = from.y;
  to[2] = from.z;
  to[3] = from.w;
}

// Starts to copy some bytes, a multiple of 16, with all threads of the block.
UQLIB_DEVICE void stage(char* to, const void* from, int bytes) {
  for (int i = 16 * thread_index().x; i < bytes; i += 16 * block_size().x)
    copy_async(to + i, static_cast<const char*>(from) + i, true);
}

// Codes of 4, 2 or 1 bits to q - c in one subtraction. A code at bit p of the mantissa of
// 2^(m - p), m being the bits of a mantissa, makes it 2^(m - p) + q: a code need not come
// down to bit 0, so that one shift serves several registers. What is subtracted is
// 2^(m - p) + c, whose mantissa has c at bit p: exact if 0 <= c <= 2^bits and c, for fewer
// than 4 bits 2 c (p > 0), is whole. Both numbers are parameters of the kernel,
// `near[0][p]` and `near[1][p]`: an instruction takes but one constant of its own, the
// mask.
template <typename T, int kBits>
struct NearCodes {
  static constexpr bool kHalf = std::is_same_v<T, Half>;
  static constexpr int kMantissa = kHalf ? 10 : 7, kBias = kHalf ? 15 : 127;
  static constexpr int kLeast = kBits == 4 ? 0 : 1;

  // Bit of the mantissa for a code at a bit of its word.
  UQLIB_BOTH static constexpr int place(int bit) {
    return kLeast + bit % (kHalf && kBits == 4 ? 8 : 4);
  }
  static bool takes(float center) {
    const float steps = kBits == 4 ? center : 2.0f * center;
    return center >= 0.0f && center <= static_cast<float>(1 << kBits) &&
           steps == std::floor(steps);
  }
  static void fill(uint32_t (&near)[2][5], float center) {
    for (int p = kLeast; p < 5; ++p) {
      // Codes of 4 bits have their upper bit inverted.
      const uint32_t power = static_cast<uint32_t>(kBias + kMantissa - p) << kMantissa;
      const uint32_t flip = kBits == 4 ? 8u << p : 0u;
      near[0][p] = (power | flip) * 0x00010001u;
      near[1][p] = (power + (static_cast<uint32_t>(2.0f * center) << p) / 2) * 0x00010001u;
    }
  }
  UQLIB_DEVICE static void registers(uint32_t (&a)[4], const uint32_t* words, int j,
                                     const uint32_t (&near)[2][5]) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int bit = bit_of_pair(kBits, j, r), p = place(bit);
      const uint32_t mask = ((1u << kBits) - 1u) * 0x00010001u << p;
      const uint32_t word = words[word_of_pair(kBits, j)];
      const uint32_t codes = (bit >= p ? word >> (bit - p) : word << (p - bit)) & mask;
      a[r] = subtract_pairs(codes ^ near[0][p], near[1][p], T());
    }
  }
};

// Codes of a codebook to its values, two at a time: pair c0 + 16 c1 lies 32 times in
// shared memory, so that every lane has its own bank. Byte 128 (c0 + 16 c1) + 4 lane is
// put together of the word itself.
struct BookCodes {
  UQLIB_DEVICE static void spread(Words4* table, const uint32_t* pairs) {
    for (int i = thread_index().x; i < kPairsBytes / 16; i += block_size().x) {
      const uint32_t pair = load_kept(pairs + i / (kLanes / 4));
      table[i] = {pair, pair, pair, pair};
    }
  }
  UQLIB_DEVICE static void registers(uint32_t (&a)[4], const uint32_t* words, int j,
                                     const char* table, int lane) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const uint32_t word = words[word_of_pair(4, j)];
      const int bit = bit_of_pair(4, j, r);  // of c0; c1 is 16 bits above
      const uint32_t first = bit < 7 ? word << (7 - bit) : word >> (bit - 7);
      const uint32_t second = word >> (bit + 5);
      const uint32_t at =
          (first & 0x0780u) | ((second & 0x7800u) | static_cast<uint32_t>(4 * lane));
      a[r] = *reinterpret_cast<const uint32_t*>(table + at);
    }
  }
};

// What a lane multiplies by, in shared memory where it was copied there. Addresses are
// those of column 0 and group 0, wherever the copies begin.
struct LaneInputs {
  uintptr_t x;        // row g of the first 8 rows
  int to_next;        // the next 8 rows
  uintptr_t scale;    // row g of the tile of outputs
  uintptr_t zero;     // 0: `one_zero` for all
  float one_zero;
  int last_group;
  uint32_t reciprocal;

  static constexpr int kGroupBytes = kTileRows * sizeof(float);

  // Group of half h. Behind the last one any scale will do, as x is 0 there.
  UQLIB_DEVICE int group_at(int h) const {
    const int group = group_of_half(h, reciprocal);
    return group < last_group ? group : last_group;
  }
};

template <typename Number>
UQLIB_DEVICE Number read(uintptr_t from, int64_t at) {
  return *reinterpret_cast<const Number*>(from + at);
}

// The totals of a warp: 16 outputs, 8 kRowTiles rows.
template <typename T, int kBits, int kRowTiles, bool kBook, bool kRest>
struct WarpTotals {
  using Lane = Operands<T, kBits, kBook>;
  using Sum = typename Lane::Sum;
  static constexpr bool kFloats = sizeof(T) == 2;
  static constexpr bool kNear = kFloats && kBits < 8 && !kBook;
  static constexpr int kOfHalf = Lane::kProducts / kHalves<kBits>;

  const uint32_t (&near)[2][5];
  const char* table;  // of BookCodes
  float center;       // c
  int lane;
  float total[kRowTiles][4] = {};
  float scale[2] = {}, rest[2] = {};  // s and s (c - z)

  // Adds the products of a tile. `kParts` are the parts of it with scales of their own.
  template <int kParts>
  UQLIB_DEVICE void add_tile(const LaneInputs& from, const uint32_t* words, int tile) {
    uint32_t inputs[kRowTiles][Lane::kInputWords];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      const uintptr_t x = from.x + r * from.to_next +
                          static_cast<int64_t>(tile) * (kTileColumns * int{sizeof(T)});
#pragma unroll
      for (int run = 0; run < Lane::kInputWords / 4; ++run)
        spread(inputs[r] + 4 * run,
               read<Words4>(x, Lane::input_column(0, run) * int{sizeof(T)}));
    }
    Sum sum[kRowTiles][4] = {}, of_inputs[kRowTiles][4] = {};
#pragma unroll
    for (int h = 0; h < kHalves<kBits>; ++h) {
      if (h < kParts) {
        if (h) flush(sum, of_inputs);
        set_scales(from, from.group_at(2 * tile + h));
      }
#pragma unroll
      for (int j = h * kOfHalf; j < (h + 1) * kOfHalf; ++j) {
        uint32_t a[4];
        registers(a, words, j);
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
          uint32_t b[2];
          input_registers(b, inputs[r], j);
          multiply_add(sum[r], a, b, T());
          if constexpr (kRest) {
            const uint32_t ones[4] = {kOnes, kOnes, kOnes, kOnes};
            multiply_add(of_inputs[r], ones, b, T());
          }
        }
      }
    }
    flush(sum, of_inputs);
  }

  // Adds s (kCenter - z) sum of the bytes for every `stride`-th group from `group` on,
  // before `end`; m is the row of x of the first entry of the lane.
  UQLIB_DEVICE void add_corrections(const LaneInputs& from, const Product& p, int m,
                                    int group, int end, int stride) {
    for (; group < end; group += stride) {
      const int64_t at = int64_t{group} * LaneInputs::kGroupBytes;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float zero =
            p.zero == nullptr ? p.uniform_zero : read<float>(from.zero, at + 32 * i);
        scale[i] = read<float>(from.scale, at + 32 * i) * (Lane::kCenter - zero);
      }
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int64_t row = m + 8 * r + e % 2;
          if (row >= p.n_rows) continue;
          const int32_t sum = load_kept(p.group_sums + row * p.n_groups + group);
          total[r][e] = fmaf(scale[e / 2], static_cast<float>(sum), total[r][e]);
        }
      }
    }
  }

 private:
  static constexpr uint32_t kOnes = std::is_same_v<T, Half> ? 0x3C003C00u : 0x3F803F80u;

  UQLIB_DEVICE void registers(uint32_t (&a)[4], const uint32_t* words, int j) const {
    if constexpr (!kFloats) {
      Lane::registers(a, words, j);
    } else if constexpr (kNear) {
      NearCodes<T, kBits>::registers(a, words, j, near);
    } else if constexpr (kBook) {
      BookCodes::registers(a, words, j, table, lane);
    } else {
      Zeros<T> zeros;
      zeros.set(0, 128.0f);
      zeros.set(1, 128.0f);
      Lane::registers(a, words, j, zeros, nullptr, lane);
    }
  }
  UQLIB_DEVICE void set_scales(const LaneInputs& from, int group) {
    const int64_t at = int64_t{group} * LaneInputs::kGroupBytes;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      scale[i] = read<float>(from.scale, at + 32 * i);
      if constexpr (kRest)
        rest[i] = scale[i] * (center - (from.zero ? read<float>(from.zero, at + 32 * i)
                                                  : from.one_zero));
    }
  }
  // Adds to the totals, and begins new sums.
  UQLIB_DEVICE void flush(Sum (&sum)[kRowTiles][4], Sum (&of_inputs)[kRowTiles][4]) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float s = scale[e / 2];
        if constexpr (!kFloats) s *= Lane::kFactor;
        total[r][e] = fmaf(s, static_cast<float>(sum[r][e]), total[r][e]);
        if constexpr (kRest) total[r][e] = fmaf(rest[e / 2], of_inputs[r][e], total[r][e]);
        sum[r][e] = of_inputs[r][e] = 0;
      }
    }
  }
};

// Where the inputs of a block lie for a lane, and starts to copy those that `plan` says
// to `shared`. The block has the tile `tile` of outputs, rows of x from m0 on, and the
// tiles first, ..., stop - 1 of the columns.
template <typename T, int kBits, int kRowTiles>
UQLIB_DEVICE LaneInputs place_inputs(const Product& p, const SkinnyPlan& plan, char* shared,
                                     int tile, int m0, int first, int stop, int lane) {
  constexpr int kTileBytes = kTileColumns * sizeof(T);
  const int g = lane / 4;
  LaneInputs from;
  from.reciprocal = plan.reciprocal;
  from.last_group = p.n_groups - 1;
  from.one_zero = p.uniform_zero;
  const int64_t rows_before = static_cast<int64_t>(tile) * p.n_groups;
  const float* scale = p.scale + rows_before * kTileRows;
  const float* zero = p.zero == nullptr ? nullptr : p.zero + rows_before * kTileRows;
  int skipped = 0;
  if (plan.staged_groups > 0) {
    const int group = from.group_at(2 * first);
    const int bytes = (from.group_at(2 * stop - 1) - group + 1) * LaneInputs::kGroupBytes;
    stage(shared, scale + group * kTileRows, bytes);
    scale = reinterpret_cast<const float*>(shared);
    shared += plan.staged_groups * LaneInputs::kGroupBytes;
    if (p.zero != nullptr) {
      stage(shared, zero + group * kTileRows, bytes);
      zero = reinterpret_cast<const float*>(shared);
      shared += plan.staged_groups * LaneInputs::kGroupBytes;
    }
    skipped = group * LaneInputs::kGroupBytes;
  }
  from.scale = reinterpret_cast<uintptr_t>(scale + g) - skipped;
  from.zero = p.zero == nullptr ? 0 : reinterpret_cast<uintptr_t>(zero + g) - skipped;

  // Rows that x does not have are others once more: no entry of theirs is kept.
  const int n_rows = p.n_rows - m0 < 8 * kRowTiles ? p.n_rows - m0 : 8 * kRowTiles;
  int64_t between = static_cast<int64_t>(p.n_columns) * sizeof(T), before = 0;
  const char* x = static_cast<const char*>(p.x) + m0 * between;
  if (plan.staged_row_bytes > 0) {
    before = static_cast<int64_t>(first) * kTileBytes;
    for (int m = 0; m < n_rows; ++m)
      stage(shared + m * plan.staged_row_bytes, x + m * between + before,
            (stop - first) * kTileBytes);
    x = shared;
    between = plan.staged_row_bytes;
  }
  const int m = g < n_rows ? g : n_rows - 1, next = g + 8 < n_rows ? g + 8 : n_rows - 1;
  from.x = reinterpret_cast<uintptr_t>(x) + m * between - before +
           Operands<T, kBits, false>::input_column(lane % 4, 0) * sizeof(T);
  from.to_next = static_cast<int>((next - m) * between);
  return from;
}

}  // namespace uqlib
