#include "sets.cuh"

#include "launch.h"

namespace uqlib {
namespace {

constexpr int kMostOfWarp = 8 * 1024;  // bytes of a row that a warp keeps

template <typename T>
int launch_sets(MassSets p, Stream stream) {
  int rows = kSetThreads / kLanes;  // of a block
  size_t bytes = 0;
  void (*kernel)(MassSets);
  const int64_t kept = static_cast<int64_t>(sizeof(T)) * p.n_classes;
  const int64_t buffers = 2 * kSetWarps * sizeof(Found<T>);
  if (p.n_classes <= kLanes) {
    while (p.lanes < p.n_classes) p.lanes *= 2;
    rows = kSetThreads / p.lanes;
    kernel = few_classes<T>;
  } else if (kept <= kMostOfWarp) {
    bytes = rows * kept;
    kernel = many_classes<T, false, true>;
  } else {
    rows = 1;
    const bool fits = buffers + kept <= most_shared_memory();
    bytes = fits ? buffers + kept : buffers;
    kernel = fits ? many_classes<T, true, true> : many_classes<T, true, false>;
  }
  const int64_t blocks = (p.n_rows + rows - 1) / rows;
  if (blocks > INT32_MAX) return UQLIB_INVALID;
  return launch(kernel, {static_cast<unsigned>(blocks), 1, 1}, kSetThreads, bytes, stream, p);
}

}  // namespace
}  // namespace uqlib

extern "C" int uqlib_mass_sets(const void* proba, int wide, const double* threshold,
                               const double* u, int k_reg, double penalty, uint8_t* sets,
                               int64_t n_rows, int n_classes, void* stream) {
  if (n_rows < 0 || n_classes < 1) return UQLIB_INVALID;
  if (n_rows == 0) return 0;
  if (proba == nullptr || threshold == nullptr || u == nullptr || sets == nullptr)
    return UQLIB_INVALID;
  const uqlib::MassSets p{proba,  threshold, u,         sets,  penalty,
                          n_rows, n_classes, k_reg, 1};
  const auto s = static_cast<uqlib::Stream>(stream);
  return wide ? uqlib::launch_sets<double>(p, s) : uqlib::launch_sets<float>(p, s);
}
