// y = x W^T for more rows of x and packed weights, on tensor cores.
//
// Y^T = W X^T is what is computed, with W as the first operand: a warp decodes 32 outputs
// of it in registers, out of the order in which they lie in memory, and multiplies them
// with up to 64 rows of x, which all warps of a block share (gemm_stage.cuh). With the
// sums S and X, the center c and the scale s of operands.cuh
//
//     total += s S          after a group of columns, or a part of one,
//     total += s (c - z) X  once for each group, by whoever has its first columns,
//
// in single precision, the latter where some z is not c. X of bytes is given, and that of
// floats comes from `sum_groups`: it does not depend on outputs, and a block would make it
// for 256 of them only. How work is cut, and why no result depends on the schedule, is in
// gemm_cut.cuh.
//
// With 4 bits a step of a block is 8 KiB of weights, and 8 KiB of 64 rows of x in 16 bits,
// which eight warps read as 64 KiB of shared memory, in 512 clocks. Its 512 products
// m16n8k16 take as long at the full rate of tensor cores, so that a warp must not hold
// fewer outputs. Its 64 sums a lane, and as many totals, leave registers for one block of
// a multiprocessor; with 32 rows there are two.
#pragma once

#include "gemm_stage.cuh"
#include "launch.h"

namespace uqlib::gemm {

struct alignas(16) Floats4 {
  float entries[4];
};

// y[m, n] out of its sum over all columns.
UQLIB_DEVICE void write_result(const Product& p, int out, int m, int n, float total) {
  if (m >= p.n_rows || n >= p.n_true_out) return;
  if (p.row_scale != nullptr) total = total * load_kept(p.row_scale + m);
  if (p.bias != nullptr) total = total + load_kept(p.bias + n);
  const int64_t at = int64_t{m} * p.n_true_out + n;
  if (out == UQLIB_FLOAT)
    static_cast<float*>(p.y)[at] = total;
  else
    static_cast<uint16_t*>(p.y)[at] = out == UQLIB_HALF ? from_float<Half>(total).bits
                                                        : from_float<BFloat16>(total).bits;
}

// The sums of 16 kWarpTiles outputs and 8 kAcross rows that a warp holds. Entry e of
// product (i, j) is output 16 i + g + 8 (e / 2) of its own and row 8 j + 2 t + e % 2.
template <typename L>
struct Accumulators {
  static constexpr int kAcross = static_cast<int>(L::kRows) / 8;
  using Element = typename L::Element;

  typename L::Sum sum[kWarpTiles][kAcross][4];  // of this group
  float total[kWarpTiles][kAcross][4];
  float scale[kWarpTiles][2];

  UQLIB_DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < kWarpTiles; ++i) {
      scale[i][0] = scale[i][1] = 0.0f;
#pragma unroll
      for (int j = 0; j < kAcross; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[i][j][e] = 0, total[i][j][e] = 0.0f;
    }
  }

  UQLIB_DEVICE void end_group() {
#pragma unroll
    for (int i = 0; i < kWarpTiles; ++i)
#pragma unroll
      for (int j = 0; j < kAcross; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          total[i][j][e] =
              fmaf(scale[i][e / 2], static_cast<float>(sum[i][j][e]), total[i][j][e]);
          sum[i][j][e] = 0;
        }
  }

  // Takes the scales of the group whose columns follow a slot of a stage, and adds its X.
  UQLIB_DEVICE void begin_group(const Product& p, const Center& center, const char* stage,
                                const Plan& plan, unsigned slot, unsigned warp,
                                unsigned lane) {
    const auto* floats = reinterpret_cast<const float*>(stage);
    const bool has_sums = p.group_sums != nullptr && (plan.begins >> slot & 1);
    const auto* sums = reinterpret_cast<const typename L::Sum*>(stage + L::kSumsAt);
#pragma unroll
    for (int i = 0; i < kWarpTiles; ++i)
#pragma unroll
      for (int r = 0; r < 2; ++r)
        scale[i][r] = floats[L::scales_at(slot, warp, 0) + kTileRows * i + lane / 4 + 8 * r];
    if (has_sums) {
#pragma unroll
      for (int i = 0; i < kWarpTiles; ++i) {
        float rest[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float zero = p.uniform_zero;
          if (p.zero != nullptr)
            zero = floats[L::scales_at(slot, warp, 1) + kTileRows * i + lane / 4 + 8 * r];
          rest[r] = scale[i][r] * (center.value - zero);
        }
#pragma unroll
        for (int j = 0; j < kAcross; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const auto of_row = sums[slot * L::kRows + 8 * j + 2 * (lane % 4) + e % 2];
            total[i][j][e] = fmaf(rest[e / 2], static_cast<float>(of_row), total[i][j][e]);
          }
      }
    }
#pragma unroll
    for (int i = 0; i < kWarpTiles; ++i)
#pragma unroll
      for (int r = 0; r < 2; ++r) scale[i][r] *= L::Multiplied::kFactor;
  }

  // The products of a step.
  UQLIB_DEVICE void multiply(const Product& p, const Center& center, const char* stage,
                             const Plan& plan, const char* table, unsigned warp,
                             unsigned lane) {
    using M = typename L::Multiplied;
    constexpr int kOfHalf = M::kProducts / 2;
#pragma unroll 1
    for (unsigned u = 0; u < L::kTiles; ++u) {
      uint32_t inputs[kAcross][4];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const unsigned slot = u * kHalves<L::kBitsOf> + h;
        if (h < kHalves<L::kBitsOf> && (plan.changes >> slot & 1)) {
          end_group();
          begin_group(p, center, stage, plan, slot, warp, lane);
        }
        if (h == 0 || !L::kIntegers) read_inputs(inputs, stage, u, h, lane);
#pragma unroll
        for (int i = 0; i < kWarpTiles; ++i) {
          uint32_t words[L::kBitsOf];
          read_words(words, stage, u, h, warp * kWarpTiles + i, lane);
#pragma unroll
          for (int k = 0; k < kOfHalf; ++k) {
            uint32_t a[4];
            M::registers(a, words, kOfHalf * h + k, center, table, lane);
#pragma unroll
            for (int j = 0; j < kAcross; ++j) {
              uint32_t b[2];
              input_registers(b, inputs[j], L::kIntegers ? h : k);
              multiply_add(sum[i][j], a, b, Element());
            }
          }
        }
      }
    }
  }

  // Of the words of a lane of a tile those that the products of half h take.
  UQLIB_DEVICE static void read_words(uint32_t (&words)[L::kBitsOf], const char* stage,
                                      unsigned u, int h, unsigned tile, unsigned lane) {
    constexpr int n = L::kBitsOf == 1 ? 1 : L::kBitsOf / 2 / L::kLoads;  // of a load
    const int first = L::kBitsOf == 1 ? 0 : n * h;
    struct alignas(4 * n) Words {
      uint32_t words[n];
    };
#pragma unroll
    for (unsigned load = 0; load < L::kLoads; ++load) {
      const unsigned chunk = (tile * L::kLoads + load) * kLanes + lane;
      const Words read = *reinterpret_cast<const Words*>(
          stage + L::kWeightsAt + chunk * 16 + u * (L::kBitsOf * 4) + first * 4);
#pragma unroll
      for (int w = 0; w < n; ++w) words[4 * load + first + w] = read.words[w];
    }
  }

  // The run of inputs of a lane of rows 8 j + g.
  UQLIB_DEVICE static void read_inputs(uint32_t (&inputs)[kAcross][4], const char* stage,
                                       unsigned u, int run, unsigned lane) {
    const int column = L::Multiplied::input_column(lane % 4, run);
    const int chunk = column * static_cast<int>(sizeof(Element)) / 16;
#pragma unroll
    for (int j = 0; j < kAcross; ++j) {
      const int place = place_of_chunk<L::kChunks>(8 * j + lane / 4, chunk);
      spread(inputs[j],
             reinterpret_cast<const Words4*>(stage)[u * L::kRows * L::kChunks + place]);
    }
  }

  // Results, or a part of them, of a tile.
  UQLIB_DEVICE void finish(const Product& p, const Cut& cut, const Plan& plan, int out,
                           int thread) {
    end_group();
    const int lane = thread % kLanes;
    const int first_row = plan.row_tile * L::kRows;
    const int first_weight = first_weight_of(plan.strip, thread / kLanes);
    const int at_part = own_piece(cut, plan.strip, plan.row_tile).part;
#pragma unroll
    for (int i = 0; i < kWarpTiles; ++i)
#pragma unroll
      for (int j = 0; j < kAcross; ++j) {
        if (at_part >= 0) {
          float* part = p.parts + at_part * cut.floats_of_part();
          float* entries = part + ((i * kAcross + j) * kThreads + thread) * 4;
          *reinterpret_cast<Floats4*>(entries) = {total[i][j][0], total[i][j][1],
                                                  total[i][j][2], total[i][j][3]};
        } else {
#pragma unroll
          for (int e = 0; e < 4; ++e)
            write_result(p, out, first_row + 8 * j + 2 * (lane % 4) + e % 2,
                         (first_weight + i) * kTileRows + lane / 4 + 8 * (e / 2),
                         total[i][j][e]);
        }
      }
    clear();
  }
};

template <typename L>
UQLIB_KERNEL UQLIB_THREADS(kThreads, blocks_of(L::kRows))
    multiply(const Product p, const Center center, const Cut cut, const int out) {
  char* memory = shared_memory<char>();
  auto* plans = reinterpret_cast<Plan*>(memory + L::kTableBytes);
  auto* cursor = reinterpret_cast<Cursor<L>*>(plans + kPlans);
  char* stages = memory + L::kTableBytes + L::kPlansBytes;
  const unsigned thread = thread_index().x;
  const unsigned lane = thread % kLanes, warp = thread / kLanes;
  if constexpr (L::kTable) spread_pairs(memory, p.pairs);
  if (thread == 0) {
    Cursor<L> at;
    at.begin(p, cut);
    for (unsigned s = 0; s < L::kStages; ++s) plans[s] = at.next(p, cut);
    *cursor = at;
  }
  sync_block();

  Accumulators<L> sums;
  sums.clear();
  const unsigned n_weights = static_cast<unsigned>(p.n_out) / kTileRows;
  // Warps w and w + 4 share a scheduler. Of two stages both are always needed at once.
  const bool copies_late = L::kStages > 2 && warp >= kWarps / 2;
  // A round copies the step of its number, and multiplies the one kStages - 1 before.
#pragma unroll 1
  for (unsigned round = 0;; ++round) {
    const bool multiplies = round >= L::kStages - 1;
    if (multiplies) {
      // All have their copies of this step, and are done with the stage before it, which
      // is filled next, and with its plan.
      wait_for_copies<L::kStages - 2>();
      sync_block();
      if (!plans[(round - (L::kStages - 1)) % kPlans].is_open) break;
      if (thread == 0) {
        Cursor<L> at = *cursor;
        plans[(round + 1) % kPlans] = at.next(p, cut);
        *cursor = at;
      }
    }
    // Half of the warps copy first, half multiply first, so that tensor cores are busy.
    const auto copies = [&] {
      const Plan plan = plans[round % kPlans];
      if (plan.is_open)
        feed<L>(plan, p, stages + round % L::kStages * L::kStageBytes, thread);
    };
    if (!copies_late) copies();
    if (multiplies) {
      const unsigned step = round - (L::kStages - 1);
      const char* stage = stages + step % L::kStages * L::kStageBytes;
      const Plan* plan = plans + step % kPlans;
      if (first_weight_of(plan->strip, warp) < n_weights) {
        sums.multiply(p, center, stage, *plan, memory, warp, lane);
        sync_warp();  // only to read the plan again
        if (plan->ends_tile) sums.finish(p, cut, *plan, out, thread);
      }
    }
    if (copies_late) copies();
    commit_copies();
  }
}

// X of each row and group of floats, (n_rows, n_groups), a warp each.
template <typename T>
UQLIB_KERNEL UQLIB_THREADS(kThreads) sum_groups(const Product p, float* sums) {
  const int thread = static_cast<int>(thread_index().x), lane = thread % kLanes;
  const int64_t row = block_index().x;
  const int stride = static_cast<int>(grid_size().y) * kWarps;
  int group = static_cast<int>(block_index().y) * kWarps + thread / kLanes;
  for (; group < p.n_groups; group += stride) {
    const int64_t first = row * p.n_columns + int64_t{group} * p.group_columns;
    const auto* from = reinterpret_cast<const Words4*>(static_cast<const T*>(p.x) + first);
    const auto sum_of = [](uint32_t word) {
      return to_float(T{static_cast<uint16_t>(word)}) +
             to_float(T{static_cast<uint16_t>(word >> 16)});
    };
    float sum = 0.0f;
#pragma unroll 8
    for (int i = lane; i < p.group_columns / 8; i += kLanes) {
      const Words4 words = load_kept(from + i);
      sum += (sum_of(words.x) + sum_of(words.y)) + (sum_of(words.z) + sum_of(words.w));
    }
#pragma unroll
    for (int mask = kLanes / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (lane == 0) sums[row * p.n_groups + group] = sum;
  }
}

// Adds the parts of a tile in the order of its steps. Blocks are the meetings of runs and
// the products (i, j) of all warps.
UQLIB_KERNEL UQLIB_THREADS(kThreads) add_parts(const Product p, const Cut cut, const int out) {
  const int tile = shared_tile(cut, static_cast<int>(block_index().x));
  if (tile < 0) return;
  const int thread = static_cast<int>(thread_index().x), lane = thread % kLanes;
  const int across = cut.tile_rows / 8, product = static_cast<int>(block_index().y);
  const int i = product / across, j = product % across;
  const int weight = tile / cut.n_row_tiles * kStripTiles +
                     thread / kLanes * kWarpTiles + i;
  if (weight >= p.n_out / kTileRows) return;
  float total[4] = {};
  const int last = cut.run_of(tile, cut.n_steps - 1);
#pragma unroll 4
  for (int run = cut.run_of(tile, 0); run <= last; ++run) {
    const float* part = p.parts + piece_of(cut, run, tile).part * cut.floats_of_part();
    const auto added =
        *reinterpret_cast<const Floats4*>(part + (product * kThreads + thread) * 4);
#pragma unroll
    for (int e = 0; e < 4; ++e) total[e] += added.entries[e];
  }
#pragma unroll
  for (int e = 0; e < 4; ++e)
    write_result(p, out,
                 tile % cut.n_row_tiles * cut.tile_rows + 8 * j +
                     2 * (lane % 4) + e % 2,
                 weight * kTileRows + lane / 4 + 8 * (e / 2), total[e]);
}

}  // namespace uqlib::gemm
