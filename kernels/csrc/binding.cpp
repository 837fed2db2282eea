// The operations of torch on a GPU: checks of tensors, workspaces, and calls of launch.h.
//
// Only the stable interface of torch is used, so that one library serves many versions of
// torch and every version of Python. The schemas are defined in Python
// (uqlib_kernels/_torch_ops.py); this file only says what the operations do for tensors on
// a GPU. Compiled with -DUQLIB_EMULATED it says so for tensors on the CPU, in a namespace
// of its own, on top of the emulated kernels, which is how it is tested.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "launch.h"
#include "product.h"

#if defined(UQLIB_EMULATED)
#define UQLIB_NAMESPACE uqlib_kernels_emulated
#define UQLIB_KEY CPU
#else
#define UQLIB_NAMESPACE uqlib_kernels
#define UQLIB_KEY CUDA
#include <dlfcn.h>
// Weak: a torch without CUDA does not have it, and can load this library all the same.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);
#endif

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using uqlib::Columns;
using uqlib::Product;

constexpr int64_t kTileRows = uqlib::kTileRows;
// From so many columns on, a group is split so that its sums fit 32 bits (_packed.py).
constexpr int64_t kMostGroup = 1 << 14;
// More rows than this are many: they go through a library's product of matrices.
constexpr int64_t kFewRows = 16, kSomeRows = 256, kIntegerRows = 64;
constexpr int64_t kMost = int64_t{1} << 30;  // of rows and columns: sizes are int

void check(int code, const char* what) {
  STD_TORCH_CHECK(code == 0, "uqlib_kernels: ", what, " failed: ", uqlib_error_string(code));
}

#if !defined(UQLIB_EMULATED)
// The function of torch that knows the current stream. The loader finds it where this
// library depends on that of torch's CUDA part; else it is asked for there by name.
auto* stream_function() {
  static auto* const found = [] {
    auto* function = &aoti_torch_get_current_cuda_stream;
    if (function != nullptr) return function;
    void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    void* const symbol =
        library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
    return reinterpret_cast<decltype(function)>(symbol);
  }();
  return found;
}
#endif

// Makes the device of a tensor the current one, and knows its stream.
class Place {
 public:
#if defined(UQLIB_EMULATED)
  explicit Place(const Tensor&) {}
  void* stream = nullptr;
#else
  explicit Place(const Tensor& x) : guard_(x.get_device_index()) {
    STD_TORCH_CHECK(stream_function() != nullptr,
                    "uqlib_kernels: this build of torch has no CUDA.");
    TORCH_ERROR_CODE_CHECK(stream_function()(x.get_device_index(), &stream));
  }
  void* stream = nullptr;

 private:
  torch::stable::accelerator::DeviceGuard guard_;
#endif
};

int type_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return UQLIB_FLOAT;
    case ScalarType::Half:
      return UQLIB_HALF;
    case ScalarType::BFloat16:
      return UQLIB_BFLOAT16;
    default:
      return -1;
  }
}

Tensor made(const Tensor& like, std::vector<int64_t> shape, ScalarType type) {
  return torch::stable::new_empty(like, shape, type);
}

template <typename T>
const T* address(const std::optional<Tensor>& tensor) {
  return tensor ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

std::string shape_of(const Tensor& tensor) {
  std::string text = "(";
  for (int64_t d = 0; d < tensor.dim(); ++d)
    text += (d ? ", " : "") + std::to_string(tensor.size(d));
  return text + ")";
}

// A tensor that a kernel may read by its address.
void check_tensor(const char* name, const Tensor& tensor, const Tensor& x,
                  const std::vector<int64_t>& shape, ScalarType type) {
  bool fits = tensor.dim() == static_cast<int64_t>(shape.size());
  for (size_t d = 0; fits && d < shape.size(); ++d) fits = tensor.size(d) == shape[d];
  std::string wanted = "(";
  for (size_t d = 0; d < shape.size(); ++d)
    wanted += (d ? ", " : "") + std::to_string(shape[d]);
  STD_TORCH_CHECK(fits && tensor.scalar_type() == type && tensor.is_contiguous(),
                  "uqlib_kernels: ", name, " must be contiguous, of shape ", wanted,
                  ") and type ", torch::headeronly::toString(type), ", got shape ",
                  shape_of(tensor), " and type ",
                  torch::headeronly::toString(tensor.scalar_type()),
                  ": take it from packed_tensors(packed, device=...), which arranges a "
                  "weight for its device.");
  STD_TORCH_CHECK(tensor.get_device_index() == x.get_device_index() &&
                      tensor.is_cuda() == x.is_cuda(),
                  "uqlib_kernels: ", name, " must be on the device of x.");
}

void check_address(const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(uqlib::is_aligned(tensor.const_data_ptr()), "uqlib_kernels: ", name,
                  " must begin at a multiple of 16 bytes: use clone().");
}

int64_t up_to(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// The columns of a weight, as device_columns of cuda/_arrange.py.
Columns columns_of(int64_t bits, int64_t n_in, int64_t group_size) {
  const int64_t whole = std::max<int64_t>(1, std::min(group_size, n_in));
  const int64_t parts = (whole + kMostGroup - 1) / kMostGroup;
  const int64_t inner = parts == 1 ? whole : (whole + 64 * parts - 1) / (64 * parts) * 64;
  const int64_t padded = up_to(inner, bits == 8 || inner >= 64 ? 64 : 32);
  const int64_t n_groups = (n_in + whole - 1) / whole * parts;
  const int64_t n_columns = up_to(n_groups * padded, uqlib::columns_of_step(bits));
  return {static_cast<int>(n_in),   static_cast<int>(whole),
          static_cast<int>(inner),  static_cast<int>(parts),
          static_cast<int>(padded), static_cast<int>(n_groups),
          static_cast<int>(n_columns)};
}

// The arguments of an operation, checked once, and the product that they describe.
struct Weight {
  Tensor codes, scale;
  std::optional<Tensor> zero, codebook;
  int bits, n_out, n_padded;
  float uniform_zero;
  Columns columns;

  Weight(const Tensor& x, Tensor codes_, Tensor scale_, std::optional<Tensor> zero_,
         std::optional<Tensor> codebook_, int64_t bits_, int64_t n_out_, int64_t n_in,
         int64_t group_size, int64_t twice_zero)
      : codes(codes_), scale(scale_), zero(zero_), codebook(codebook_) {
    STD_TORCH_CHECK(bits_ == 8 || bits_ == 4 || bits_ == 2 || bits_ == 1,
                    "uqlib_kernels: bits=", bits_, " must be 8, 4, 2 or 1.");
    // Groups are padded to 32 columns and more.
    STD_TORCH_CHECK(n_out_ >= 1 && n_in >= 1 && group_size >= 1 && n_out_ < kMost &&
                        n_in < kMost / 64,
                    "uqlib_kernels: n_out=", n_out_, ", n_in=", n_in, ", group_size=",
                    group_size, " must be at least 1 and not huge.");
    bits = static_cast<int>(bits_);
    n_out = static_cast<int>(n_out_);
    n_padded = static_cast<int>(up_to(n_out_, kTileRows));
    uniform_zero = 0.5f * static_cast<float>(twice_zero);
    columns = columns_of(bits_, n_in, group_size);
    const int64_t tiles = n_padded / kTileRows;
    std::vector<int64_t> shape = {n_padded, columns.n_columns};
    if (bits != 8) shape = {tiles, columns.n_columns / uqlib::columns_of_step(bits), 32, 16};
    const std::vector<int64_t> scales = {tiles, columns.n_groups, kTileRows};
    check_tensor("codes", codes, x, shape, bits == 8 ? ScalarType::Char : ScalarType::Byte);
    check_address("codes", codes);
    check_tensor("scale", scale, x, scales, ScalarType::Float);
    check_address("scale", scale);
    if (zero) {
      check_tensor("zero_point", *zero, x, scales, ScalarType::Float);
      check_address("zero_point", *zero);
    }
    // The bits of sixteen values; of their pairs in half precision, in bfloat16, and of
    // what bfloat16 leaves of them.
    if (codebook) check_tensor("codebook", *codebook, x, {16 + 3 * 256}, ScalarType::Int);
  }

  const uint32_t* pairs(int type, bool rest = false) const {
    if (!codebook) return nullptr;
    return address<uint32_t>(codebook) + (type == UQLIB_HALF ? 16 : rest ? 528 : 272);
  }

  Product product(int64_t n_rows) const {
    Product p{};
    p.weight = codes.const_data_ptr();
    p.scale = static_cast<const float*>(scale.const_data_ptr());
    p.zero = address<float>(zero);
    p.uniform_zero = uniform_zero;
    p.n_rows = static_cast<int>(n_rows);
    p.n_out = n_padded;
    p.n_true_out = n_out;
    p.n_columns = columns.n_columns;
    p.group_columns = columns.group_columns;
    p.n_groups = columns.n_groups;
    return p;
  }

  float center() const { return uqlib::integer_center(bits); }
  bool is_centered() const { return !zero && uniform_zero == center(); }
};

// x as rows, contiguous; the result takes its shape from x.
struct Rows {
  Tensor rows;
  std::vector<int64_t> shape;  // of the result
  int64_t n_rows;

  Rows(const Tensor& x, int64_t n_in, int64_t n_out) : rows(x) {
    STD_TORCH_CHECK(x.dim() >= 1 && x.size(x.dim() - 1) == n_in,
                    "uqlib_kernels: x must have shape (..., ", n_in, "), got shape ",
                    shape_of(x), ".");
    for (int64_t d = 0; d + 1 < x.dim(); ++d) shape.push_back(x.size(d));
    shape.push_back(n_out);
    n_rows = x.numel() / n_in;
    STD_TORCH_CHECK(n_rows < kMost / 3, "uqlib_kernels: ", n_rows, " rows are too many.");
    rows = torch::stable::contiguous(torch::stable::reshape(x, {n_rows, n_in}));
    if (type_of(rows.scalar_type()) < 0) {
      STD_TORCH_CHECK(rows.scalar_type() == ScalarType::Double,
                      "uqlib_kernels: x must be of a floating type, got ",
                      torch::headeronly::toString(rows.scalar_type()), ": use x.float().");
      rows = torch::stable::to(rows, ScalarType::Float);
    }
  }
  int type() const { return type_of(rows.scalar_type()); }
  bool is_aligned() const { return uqlib::is_aligned(rows.const_data_ptr()); }
};

std::optional<Tensor> checked_bias(std::optional<Tensor> bias, const Tensor& x,
                                   int64_t n_out) {
  if (!bias) return bias;
  if (bias->scalar_type() != ScalarType::Float)
    bias = torch::stable::to(*bias, ScalarType::Float);
  bias = torch::stable::contiguous(*bias);
  check_tensor("bias", *bias, x, {n_out}, ScalarType::Float);
  return bias;
}

// Products of tensor cores for few or some rows; y is of type `out`.
void multiply(Product p, int type, int bits, int out, const Tensor& like, void* stream) {
  const int multiprocessors = uqlib_n_multiprocessors();
  STD_TORCH_CHECK(multiprocessors > 0, "uqlib_kernels: CUDA does not answer. Is its driver "
                                       "as new as the library?");
  const bool few = p.n_rows <= kFewRows;
  const int64_t floats = few ? uqlib_skinny_parts(&p, bits, multiprocessors)
                             : uqlib_gemm_parts(&p, bits, multiprocessors);
  std::optional<Tensor> parts;
  if (floats > 0) {
    parts = made(like, {floats}, ScalarType::Float);
    p.parts = static_cast<float*>(parts->mutable_data_ptr());
  }
  if (few)
    check(uqlib_skinny(&p, type, bits, out, multiprocessors, stream), "product of few rows");
  else
    check(uqlib_gemm(&p, type, bits, out, multiprocessors, stream), "product of some rows");
}

Tensor of_library(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  std::vector<StableIValue> stack = {torch::stable::detail::from(x),
                                     torch::stable::detail::from(weight),
                                     torch::stable::detail::from(bias)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::linear", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

Tensor integer_of_library(const Tensor& x, const Tensor& weight) {
  const Tensor turned = torch::stable::transpose(weight, 0, 1);
  std::vector<StableIValue> stack = {torch::stable::detail::from(x),
                                     torch::stable::detail::from(turned)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::_int_mm", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// The result in the shape and the type that the caller of an operation gets.
Tensor finished(Tensor y, const Rows& rows, const Tensor& x) {
  if (y.scalar_type() != x.scalar_type()) y = torch::stable::to(y, x.scalar_type());
  return torch::stable::reshape(y, rows.shape);
}

// Rows as the kernels of products read them: in the columns of the weight, aligned.
Tensor placed(const Rows& rows, const Weight& weight, int to, int64_t planes, void* stream) {
  const bool is_plain = weight.columns.are_plain() && rows.is_aligned();
  if (planes == 1 && is_plain) return rows.rows;
  Tensor out = made(rows.rows, {rows.n_rows * planes, weight.columns.n_columns},
                    to == UQLIB_HALF ? ScalarType::Half : ScalarType::BFloat16);
  check(uqlib_place_rows(rows.rows.const_data_ptr(), rows.type(), out.mutable_data_ptr(), to,
                         static_cast<int>(rows.n_rows), &weight.columns, stream),
        "placing rows");
  return out;
}

// Products with many rows: the float matrix is made, and a library multiplies.
Tensor by_dequantizing(const Rows& rows, const Weight& weight,
                       const std::optional<Tensor>& bias, void* stream) {
  const ScalarType type = rows.rows.scalar_type();
  Tensor matrix = made(rows.rows, {weight.n_out, weight.columns.n_in}, type);
  Product p = weight.product(rows.n_rows);
  p.pairs = weight.pairs(UQLIB_HALF);
  check(uqlib_dequantize(&p, &weight.columns, address<float>(weight.codebook), weight.bits,
                         matrix.mutable_data_ptr(), rows.type(), stream),
        "dequantization");
  std::optional<Tensor> own = bias;
  if (bias && type != ScalarType::Float) own = torch::stable::to(*bias, type);
  return of_library(rows.rows, matrix, own);
}

// Inputs in their own type: half precision, bfloat16, or single precision as the sum of
// three bfloat16, which is exact, so that tensor cores serve here too.
Tensor weight_only(const Tensor& x, const Weight& weight, std::optional<Tensor> bias) {
  const Rows rows(x, weight.columns.n_in, weight.n_out);
  bias = checked_bias(bias, x, weight.n_out);
  const Place place(x);
  const int type = rows.type() == UQLIB_FLOAT ? UQLIB_BFLOAT16 : rows.type();
  const int64_t planes = rows.type() == UQLIB_FLOAT ? 3 : 1;
  const ScalarType own = rows.rows.scalar_type();
  if (rows.n_rows * planes > kSomeRows)
    return finished(by_dequantizing(rows, weight, bias, place.stream), rows, x);
  Tensor y = made(rows.rows, {rows.n_rows, weight.n_out}, own);
  if (rows.n_rows > 0) {
    const Tensor inputs = placed(rows, weight, type, planes, place.stream);
    Product p = weight.product(rows.n_rows * planes);
    p.x = inputs.const_data_ptr();
    p.pairs = weight.pairs(type);
    if (planes == 1) {
      p.y = y.mutable_data_ptr();
      p.bias = address<float>(bias);
      multiply(p, type, weight.bits, type, rows.rows, place.stream);
    } else {
      Tensor sums = made(rows.rows, {rows.n_rows * 3, weight.n_out}, ScalarType::Float);
      p.y = sums.mutable_data_ptr();
      const auto add_planes = [&](const Tensor& to, const float* added) {
        multiply(p, type, weight.bits, UQLIB_FLOAT, rows.rows, place.stream);
        check(uqlib_add_planes(static_cast<const float*>(sums.const_data_ptr()), added,
                               to.mutable_data_ptr(), UQLIB_FLOAT,
                               static_cast<int>(rows.n_rows), weight.n_out, place.stream),
              "adding planes");
      };
      add_planes(y, address<float>(bias));
      if (weight.codebook) {  // which is the sum of two as well
        p.pairs = weight.pairs(type, true);
        p.zero = nullptr;  // taken off once
        p.uniform_zero = 0.0f;
        const Tensor rest = torch::stable::empty_like(y);
        add_planes(rest, nullptr);
        y = torch::stable::subtract(y, rest, -1.0);
      }
    }
  }
  return finished(y, rows, x);
}

// Inputs rounded to bytes between -top and top, each row with a scale of its own, or all
// with a given one.
Tensor integer(const Tensor& x, const Weight& weight, std::optional<Tensor> bias, int top,
               float static_scale = 0.0f) {
  STD_TORCH_CHECK(!weight.codebook,
                  "uqlib_kernels: a codebook has no product of integers: use linear_w4a32.");
  const Rows rows(x, weight.columns.n_in, weight.n_out);
  bias = checked_bias(bias, x, weight.n_out);
  const Place place(x);
  const int64_t n_rows = rows.n_rows;
  Columns columns = weight.columns;
  const Tensor& like = rows.rows;
  Tensor y = made(like, {n_rows, weight.n_out}, like.scalar_type());
  if (n_rows == 0) return finished(y, rows, x);
  // A library multiplies bytes in the order of the columns, which is that of 8 bits.
  const bool by_library =
      columns.n_groups == 1 && n_rows > (weight.bits == 8 ? kIntegerRows : kSomeRows);
  // Its sums are those of whole tiles, also where the one group of a weight is half a tile.
  if (by_library) columns.group_columns = static_cast<int>(up_to(columns.group_columns, 64));
  Tensor codes = made(like, {n_rows, columns.n_columns}, ScalarType::Char);
  Tensor row_scale = made(like, {n_rows}, ScalarType::Float);
  std::optional<Tensor> sums;
  if (!weight.is_centered()) sums = made(like, {n_rows, columns.n_groups}, ScalarType::Int);
  int32_t* const group_sums = sums ? static_cast<int32_t*>(sums->mutable_data_ptr()) : nullptr;
  check(uqlib_quantize_rows(rows.rows.const_data_ptr(), rows.type(),
                            static_cast<int8_t*>(codes.mutable_data_ptr()), group_sums,
                            static_cast<float*>(row_scale.mutable_data_ptr()),
                            static_cast<int>(n_rows), &columns, by_library ? 8 : weight.bits,
                            top, static_scale, place.stream),
        "rounding rows");
  Product p = weight.product(n_rows);
  p.x = codes.const_data_ptr();
  p.row_scale = static_cast<const float*>(row_scale.const_data_ptr());
  p.group_sums = group_sums;
  p.bias = address<float>(bias);
  p.y = y.mutable_data_ptr();
  if (!by_library) {
    multiply(p, UQLIB_INT8, weight.bits, rows.type(), like, place.stream);
    return finished(y, rows, x);
  }
  Tensor matrix = weight.codes;
  if (weight.bits != 8) {
    matrix = made(like, {weight.n_padded, columns.n_columns}, ScalarType::Char);
    check(uqlib_expand_codes(&p, weight.bits, static_cast<int8_t*>(matrix.mutable_data_ptr()),
                             place.stream),
          "expanding codes");
  }
  const Tensor products = integer_of_library(codes, matrix);
  check(uqlib_scale_sums(static_cast<const int32_t*>(products.const_data_ptr()), group_sums,
                         p.row_scale, p.scale, p.zero, p.uniform_zero, weight.center(), p.bias,
                         y.mutable_data_ptr(), rows.type(), static_cast<int>(n_rows),
                         weight.n_out, weight.n_padded, place.stream),
        "scaling sums");
  return finished(y, rows, x);
}

// The operations, each with the arguments of its schema.

using Optional = std::optional<Tensor>;

#define UQLIB_WEIGHT                                                                   \
  const Tensor &x, Tensor codes, Tensor scale, Optional zero_point, Optional codebook, \
      int64_t bits, int64_t n_out, int64_t n_in, int64_t group_size, int64_t twice_zero

template <int kBits, int kTop>
Tensor linear_integer(UQLIB_WEIGHT, Optional bias) {
  STD_TORCH_CHECK(bits == kBits, "uqlib_kernels: a weight of ", bits,
                  " bits: use the operation of that name.");
  return integer(x, Weight(x, codes, scale, zero_point, codebook, bits, n_out, n_in,
                           group_size, twice_zero),
                 bias, kTop);
}

Tensor linear_integer_of(UQLIB_WEIGHT, Optional bias, int64_t top,
                         std::optional<double> static_scale) {
  STD_TORCH_CHECK(top >= 1 && top <= 127, "uqlib_kernels: top=", top,
                  " must lie between 1 and 127, to fit a byte.");
  const float given = static_scale ? static_cast<float>(*static_scale) : 0.0f;
  STD_TORCH_CHECK(!static_scale || (given > 0.0f && given < HUGE_VALF),
                  "uqlib_kernels: static_scale must be positive and finite in single "
                  "precision; None gives each row a scale of its own.");
  return integer(x, Weight(x, codes, scale, zero_point, codebook, bits, n_out, n_in,
                           group_size, twice_zero),
                 bias, static_cast<int>(top), given);
}

Tensor linear_w4a32(UQLIB_WEIGHT, Optional bias) {
  STD_TORCH_CHECK(bits == 4, "uqlib_kernels: a weight of ", bits,
                  " bits: use linear_dequantized.");
  return weight_only(x, Weight(x, codes, scale, zero_point, codebook, bits, n_out, n_in,
                               group_size, twice_zero),
                     bias);
}

Tensor linear_dequantized(UQLIB_WEIGHT, Optional bias) {
  return weight_only(x, Weight(x, codes, scale, zero_point, codebook, bits, n_out, n_in,
                               group_size, twice_zero),
                     bias);
}

// A matrix of rows, contiguous, in single or double precision.
Tensor matrix_of(const char* name, const Tensor& q) {
  STD_TORCH_CHECK(q.dim() == 2, "uqlib_kernels: ", name,
                  " must have two dimensions, got shape ", shape_of(q), ".");
  const ScalarType type = q.scalar_type();
  if (type == ScalarType::Double || type == ScalarType::Float)
    return torch::stable::contiguous(q);
  STD_TORCH_CHECK(type_of(type) >= 0, "uqlib_kernels: ", name,
                  " must be of a floating type, got ", torch::headeronly::toString(type), ".");
  return torch::stable::contiguous(torch::stable::to(q, ScalarType::Float));
}

Tensor vector_of(const char* name, const Tensor& values, const Tensor& q, int64_t n) {
  Tensor made_double = values;
  if (values.scalar_type() != ScalarType::Double)
    made_double = torch::stable::to(values, ScalarType::Double);
  made_double = torch::stable::contiguous(made_double);
  check_tensor(name, made_double, q, {n}, ScalarType::Double);
  return made_double;
}

bool is_wide(const Tensor& q) { return q.scalar_type() == ScalarType::Double; }

// A row and what it takes to mend it must fit the memory of a block.
void check_width(const Tensor& rows) {
  constexpr int64_t most = 4096;
  STD_TORCH_CHECK(rows.size(1) <= most, "uqlib_kernels: q has ", rows.size(1),
                  " levels; on a GPU there may be ", most, ": use q.cpu().");
}

Tensor sort_rows(const Tensor& q) {
  const Tensor rows = matrix_of("q", q);
  const Place place(q);
  Tensor out = torch::stable::empty_like(rows);
  check_width(rows);
  if (out.numel() > 0)
    check(uqlib_sort_rows(rows.const_data_ptr(), out.mutable_data_ptr(), is_wide(rows),
                          rows.size(0), static_cast<int>(rows.size(1)), nullptr, place.stream),
          "sorting rows");
  if (out.scalar_type() != q.scalar_type()) out = torch::stable::to(out, q.scalar_type());
  return out;
}

Tensor isotonic_rows(const Tensor& q, Optional level_weight) {
  const Tensor rows = matrix_of("q", q);
  Optional weight;
  if (level_weight) weight = vector_of("level_weight", *level_weight, q, q.size(1));
  const Place place(q);
  Tensor out = torch::stable::empty_like(rows);
  check_width(rows);
  if (out.numel() > 0)
    check(uqlib_isotonic_rows(rows.const_data_ptr(), address<double>(weight),
                              out.mutable_data_ptr(), is_wide(rows), rows.size(0),
                              static_cast<int>(rows.size(1)), place.stream),
          "isotonic projection of rows");
  if (out.scalar_type() != q.scalar_type()) out = torch::stable::to(out, q.scalar_type());
  return out;
}

Tensor mass_sets(const Tensor& proba, const Tensor& threshold, const Tensor& u, int64_t k_reg,
                 double penalty) {
  const Tensor rows = matrix_of("proba", proba);
  const int64_t n_rows = rows.size(0);
  const Tensor limit = vector_of("threshold", threshold, proba, n_rows);
  const Tensor share = vector_of("u", u, proba, n_rows);
  STD_TORCH_CHECK(penalty >= 0 && penalty < HUGE_VAL, "uqlib_kernels: penalty=", penalty,
                  " must be finite and not negative.");
  STD_TORCH_CHECK(k_reg >= 0 && k_reg < kMost, "uqlib_kernels: k_reg=", k_reg,
                  " must be at least 0 and not huge.");
  const Place place(proba);
  Tensor sets = made(rows, {n_rows, rows.size(1)}, ScalarType::Bool);
  if (sets.numel() > 0)
    check(uqlib_mass_sets(rows.const_data_ptr(), is_wide(rows),
                          static_cast<const double*>(limit.const_data_ptr()),
                          static_cast<const double*>(share.const_data_ptr()),
                          static_cast<int>(k_reg), penalty,
                          static_cast<uint8_t*>(sets.mutable_data_ptr()), n_rows,
                          static_cast<int>(rows.size(1)), place.stream),
          "prediction sets");
  return sets;
}

}  // namespace

#define UQLIB_REGISTER(ns, key) STABLE_TORCH_LIBRARY_IMPL(ns, key, m)
UQLIB_REGISTER(UQLIB_NAMESPACE, UQLIB_KEY) {
  // Rows for weights of one bit are rounded to 6 bits, as on the CPU.
  m.impl("linear_w8a8", TORCH_BOX(&(linear_integer<8, 127>)));
  m.impl("linear_w4a8", TORCH_BOX(&(linear_integer<4, 127>)));
  m.impl("linear_w2a8", TORCH_BOX(&(linear_integer<2, 127>)));
  m.impl("linear_w1", TORCH_BOX(&(linear_integer<1, 31>)));
  m.impl("linear_integer", TORCH_BOX(&linear_integer_of));
  m.impl("linear_w4a32", TORCH_BOX(&linear_w4a32));
  m.impl("linear_dequantized", TORCH_BOX(&linear_dequantized));
  m.impl("sort_rows", TORCH_BOX(&sort_rows));
  m.impl("isotonic_rows", TORCH_BOX(&isotonic_rows));
  m.impl("mass_sets", TORCH_BOX(&mass_sets));
}
