// What a warp of a skinny product does: reads steps of the weight, and adds products of
// its tiles. See skinny.cuh.
#pragma once

#include "operands.cuh"

namespace uqlib {

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
  Center center;
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

// Starts to copy some bytes, a multiple of 16, with all threads of the block.
UQLIB_DEVICE void stage(char* to, const void* from, int bytes) {
  for (int i = 16 * thread_index().x; i < bytes; i += 16 * block_size().x)
    copy_async(to + i, static_cast<const char*>(from) + i, true);
}

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
  static constexpr int kOfHalf = Lane::kProducts / kHalves<kBits>;

  const Center& center;
  const char* table;  // of spread_pairs
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
        Lane::registers(a, words, j, center, table, lane);
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

  // Adds s (c - z) sum of the bytes for every `stride`-th group from `group` on,
  // before `end`; m is the row of x of the first entry of the lane.
  UQLIB_DEVICE void add_corrections(const LaneInputs& from, const Product& p, int m,
                                    int group, int end, int stride) {
    for (; group < end; group += stride) {
      const int64_t at = int64_t{group} * LaneInputs::kGroupBytes;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float zero =
            p.zero == nullptr ? p.uniform_zero : read<float>(from.zero, at + 32 * i);
        scale[i] = read<float>(from.scale, at + 32 * i) * (center.value - zero);
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

  UQLIB_DEVICE void set_scales(const LaneInputs& from, int group) {
    const int64_t at = int64_t{group} * LaneInputs::kGroupBytes;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      scale[i] = read<float>(from.scale, at + 32 * i);
      if constexpr (kRest)
        rest[i] = scale[i] * (center.value - (from.zero ? read<float>(from.zero, at + 32 * i)
                                                        : from.one_zero));
    }
  }
  // Adds to the totals, and begins new sums.
  UQLIB_DEVICE void flush(Sum (&sum)[kRowTiles][4], Sum (&of_inputs)[kRowTiles][4]) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        total[r][e] = fmaf(scale[e / 2] * Lane::kFactor, static_cast<float>(sum[r][e]),
                           total[r][e]);
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
