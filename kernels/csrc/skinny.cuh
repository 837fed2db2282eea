// y = x W^T for few rows of x and packed weights: skinny products.
//
// Y^T = W X^T is what is computed, with W as the first operand of a tensor core, so that
// 16 outputs share a product with 8 rows of x. A block owns 16 outputs and 8 kRowTiles
// rows; warp w of it takes the steps w, w + n_warps, ... of the columns. It reads its
// weights once, 16 bytes a lane and past the first cache, some steps before their use,
// and makes operands of them in registers (operands.cuh). What a group adds to totals is
// added in single precision. Where the sums X of its inputs are needed (`kRest`), tensor
// cores make them too, as products with ones; those of bytes are given, and are added after
// all steps, once for each group. The warps of a block add their totals in a fixed order,
// and so do the parts of columns that a grid may be split into (`add_parts`): no result
// depends on the schedule.
//
// A block uses an input once, so that shared memory saves no traffic; it saves waiting.
// With one row of 4096 columns and 4 bits a warp has but 4 to 8 steps, and the first reads
// of x (from the second cache) and of the scales (from memory: 6 % of all bytes at 128
// columns a group) would stall it in each of them. Where they fit, they are therefore
// copied at once, while the first weights are on their way. 16 rows of x do not fit with
// several blocks on a multiprocessor; they come through the first cache, which its blocks
// share, and the other warps hide their way.
#pragma once

#include "skinny_warp.cuh"

namespace uqlib {

// Threads of an instance that a multiprocessor shall hold at least, which bounds their
// registers to 128, 64 and 96. (With other bounds the compiler spills some registers, for
// the sake of more threads.)
constexpr int resident_threads(int bits, int row_tiles, bool rest) {
  return bits == 8 ? 512 : row_tiles == 1 && !rest ? 1024 : 640;
}

template <typename Number>
UQLIB_DEVICE void store(const Product& p, int64_t at, float value) {
  static_cast<Number*>(p.y)[at] = from_float<Number>(value);
}
// Entry `at` of y, of the type `out`.
UQLIB_DEVICE void store_result(const Product& p, int out, int64_t at, float sum,
                               float row_scale, float bias) {
  const float value = row_scale * sum + bias;
  if (out == 0)  // as UqlibType counts
    store<float>(p, at, value);
  else if (out == 1)
    store<Half>(p, at, value);
  else
    store<BFloat16>(p, at, value);
}

// The steps step, step + n_warps, ... before `end` of a warp; the first ones are on their
// way to `waiting`.
template <int kParts, int kBits, typename Totals>
UQLIB_DEVICE void add_steps(Totals& totals, const LaneInputs& from, const Step<kBits>& weight,
                            Words4 (&waiting)[Step<kBits>::kAhead][Step<kBits>::kLoads],
                            int step, int end, int n_warps) {
  using Weight = Step<kBits>;
  while (step < end) {
#pragma unroll
    for (int a = 0; a < Weight::kAhead; ++a) {
      if (step >= end) break;
      uint32_t words[4 * Weight::kLoads];
#pragma unroll
      for (int i = 0; i < Weight::kLoads; ++i) spread(words + 4 * i, waiting[a][i]);
      // A loop in few registers, for which the words move on.
#pragma unroll 1
      for (int i = 0; i < Weight::kTiles; ++i) {
        totals.template add_tile<kParts>(from, words, step * Weight::kTiles + i);
#pragma unroll
        for (int w = 0; w + words_of_tile(kBits) < 4; ++w)
          words[w] = words[w + words_of_tile(kBits)];
      }
      const int next = step + Weight::kAhead * n_warps;
      if (next < end) weight.load(waiting[a], next);
      step += n_warps;
    }
  }
}

// A block: 16 outputs, 8 kRowTiles rows, one part of the columns.
template <typename T, int kBits, int kRowTiles, bool kBook, bool kRest>
UQLIB_KERNEL UQLIB_THREADS((resident_threads(kBits, kRowTiles, kRest)))
    multiply_rows(const Product p, const SkinnyPlan plan) {
  using Weight = Step<kBits>;
  using Totals = WarpTotals<T, kBits, kRowTiles, kBook, kRest>;
  constexpr int kEntries = 8 * kRowTiles * kTileRows;  // of y, of a block
  const int thread = thread_index().x, lane = thread % kLanes, warp = thread / kLanes;
  const int n_warps = plan.n_warps;
  const int m0 = block_index().x * (8 * kRowTiles), tile = block_index().y;
  const int part = block_index().z, all_steps = p.n_columns / Weight::kColumns;
  const int begin = part * plan.split_steps;
  const int end =
      all_steps - begin < plan.split_steps ? all_steps : begin + plan.split_steps;

  const Weight weight(p, tile, lane);
  Words4 waiting[Weight::kAhead][Weight::kLoads];
#pragma unroll
  for (int a = 0; a < Weight::kAhead; ++a) {
    const int step = begin + warp + a * n_warps;
    if (step < end) weight.load(waiting[a], step);
  }

  char* shared = shared_memory<char>();
  Totals totals{plan.center, shared, lane};
  if constexpr (kBook) {
    spread_pairs(shared, p.pairs);
    shared += kPairsBytes;
  }
  float* finals = reinterpret_cast<float*>(shared);
  float* sums = finals + 2 * kEntries;
  shared += (n_warps + 2) * kEntries * sizeof(float);
  const LaneInputs from = place_inputs<T, kBits, kRowTiles>(
      p, plan, shared, tile, m0, begin * Weight::kTiles, end * Weight::kTiles, lane);
  commit_copies();
  // What the results need is on its way as well: each of the first threads has one.
  if (thread < kEntries) {
    const int m = m0 + thread / kTileRows, n = tile * kTileRows + thread % kTileRows;
    const bool has_bias = p.bias != nullptr && n < p.n_true_out;
    const bool has_scale = p.row_scale != nullptr && m < p.n_rows;
    finals[thread] = has_bias ? load_kept(p.bias + n) : 0.0f;
    finals[kEntries + thread] = has_scale ? load_kept(p.row_scale + m) : 1.0f;
  }

  wait_for_copies<0>();
  sync_block();
  if (kHalves<kBits> == 2 && plan.halves_differ)
    add_steps<kHalves<kBits>>(totals, from, weight, waiting, begin + warp, end, n_warps);
  else
    add_steps<1>(totals, from, weight, waiting, begin + warp, end, n_warps);
  if constexpr (!Totals::kFloats) {
    if (p.zero != nullptr || p.uniform_zero != plan.center.value) {
      // A group belongs to the part of the columns in which it begins.
      const auto groups_before = [&p](int step) {
        const int64_t column = int64_t{step} * Weight::kColumns;
        const int64_t count = (column + p.group_columns - 1) / p.group_columns;
        return static_cast<int>(count < p.n_groups ? count : p.n_groups);
      };
      totals.add_corrections(from, p, m0 + 2 * (lane % 4), groups_before(begin) + warp,
                             groups_before(end), n_warps);
    }
  }

#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int e = 0; e < 4; ++e)
      sums[(warp * kRowTiles * 4 + 4 * r + e) * kLanes + lane] = totals.total[r][e];
  }
  sync_block();
  const int m = m0 + thread / kTileRows, n = tile * kTileRows + thread % kTileRows;
  if (thread >= kEntries || m >= p.n_rows || n >= p.n_true_out) return;
  // Entry (row, column) of a product lies with lane 4 row + column / 2.
  const int row = thread % kTileRows, column = thread / kTileRows;
  const int entry = column / 8 * 4 + row / 8 * 2 + column % 2;
  float sum = 0.0f;
  for (int w = 0; w < n_warps; ++w)
    sum += sums[(w * kRowTiles * 4 + entry) * kLanes + row % 8 * 4 + column % 8 / 2];
  if (plan.n_splits > 1)
    p.parts[(int64_t{part} * p.n_rows + m) * p.n_out + n] = sum;
  else
    store_result(p, plan.out, static_cast<int64_t>(m) * p.n_true_out + n, sum,
                 finals[kEntries + thread], finals[thread]);
}

// y from the parts of a product that was split over columns, in their order.
UQLIB_KERNEL UQLIB_THREADS(256) add_parts(const Product p, const SkinnyPlan plan) {
  const int64_t at = int64_t{block_index().x} * block_size().x + thread_index().x;
  if (at >= int64_t{p.n_rows} * p.n_true_out) return;
  const int64_t m = at / p.n_true_out, n = at % p.n_true_out;
  float sum = 0.0f;
  for (int part = 0; part < plan.n_splits; ++part)
    sum += p.parts[(int64_t{part} * p.n_rows + m) * p.n_out + n];
  store_result(p, plan.out, at, sum, p.row_scale == nullptr ? 1.0f : p.row_scale[m],
               p.bias == nullptr ? 0.0f : p.bias[n]);
}

}  // namespace uqlib
