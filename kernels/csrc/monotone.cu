#include "monotone.cuh"

#include "launch.h"

namespace uqlib {
namespace {

template <bool kProject>
int launch_rows(MonotoneRows p, bool wide, Stream stream) {
  if (p.n_rows < 0 || p.n_levels < 1) return UQLIB_INVALID;
  if (p.n_rows == 0) return 0;
  if (p.q == nullptr || p.out == nullptr) return UQLIB_INVALID;
  const int size = wide ? 8 : 4;
  // Where no GPU answers the launch is to say so.
  const int most = most_shared_memory();
  p.plan = plan_rows(p.n_levels, size, kProject, most > 0 ? most : 48 * 1024);
  if (p.plan.rows == 0) return UQLIB_INVALID;
  const int64_t blocks = (p.n_rows + p.plan.rows - 1) / p.plan.rows;
  if (blocks > INT32_MAX) return UQLIB_INVALID;
  p.plan.vectors = is_aligned(p.q) && is_aligned(p.out) &&
                   static_cast<int64_t>(p.plan.rows) * p.n_levels * size % 16 == 0;
  return launch(wide ? monotone_rows<double, kProject> : monotone_rows<float, kProject>,
                {static_cast<unsigned>(blocks), 1, 1}, kRowThreads, p.plan.bytes, stream, p);
}

}  // namespace
}  // namespace uqlib

using uqlib::Stream;

extern "C" int uqlib_sort_rows(const void* q, void* out, int wide, int64_t n_rows,
                               int n_levels, int32_t* found_nan, void* stream) {
  return uqlib::launch_rows<false>({q, out, nullptr, found_nan, n_rows, n_levels, {}},
                                   wide != 0, static_cast<Stream>(stream));
}
extern "C" int uqlib_isotonic_rows(const void* q, const double* level_weight, void* out,
                                   int wide, int64_t n_rows, int n_levels, void* stream) {
  return uqlib::launch_rows<true>({q, out, level_weight, nullptr, n_rows, n_levels, {}},
                                  wide != 0, static_cast<Stream>(stream));
}
