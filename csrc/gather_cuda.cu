// CUDA kernel that gathers outputs and inputs of a weight.
// It rounds them where a weight is kept in float32.
#include "walk_cuda.h"

namespace pass_transfer {

namespace {

using namespace walk;

// What the kernel reads: a weight with any strides, and which of it; null pointers where all are
// taken, or none is masked.
template <typename From>
struct Part {
  const From* weight;
  const int64_t *outs, *ins;
  const float* mask;
  unsigned in_count, area, width;
  int64_t out_stride, in_stride, line_stride, stride;
};

template <typename From, typename T>
__global__ void __launch_bounds__(THREADS)
    gather_kernel(Part<From> part, T* to, bool rows, int64_t numel) {
  const unsigned each = part.in_count * part.area;
  for (int64_t at = blockIdx.x * static_cast<int64_t>(THREADS) + threadIdx.x; at < numel;
       at += static_cast<int64_t>(THREADS) * gridDim.x) {
    const int64_t o = at / each;
    const unsigned inner = static_cast<unsigned>(at - o * each);
    const unsigned i = rows ? inner % part.in_count : inner / part.area;
    const unsigned k = rows ? inner / part.in_count : inner % part.area;
    const int64_t out = part.outs ? part.outs[o] : o;
    const int64_t in = part.ins ? part.ins[i] : static_cast<int64_t>(i);
    const From value =
        part.weight[out * part.out_stride + in * part.in_stride +
                    (k / part.width) * part.line_stride + (k % part.width) * part.stride];
    const float* mask = part.mask;
    to[at] = mask && mask[i] == 0.0f   ? static_cast<T>(0.0f)
             : mask && mask[i] != 1.0f ? static_cast<T>(static_cast<float>(value) * mask[i])
                                       : static_cast<T>(value);
  }
}

const int64_t* numbers_of(const Selection& which) {
  return which.index.defined() ? which.index.const_data_ptr<int64_t>() : nullptr;
}

template <typename From, typename T>
void gather(const Tensor& weight, Tensor& to, const Selection& outs, const Selection& ins,
            const Tensor& mask, bool rows) {
  const int64_t blocks = std::min<int64_t>(ceil_div(to.numel(), THREADS), 8192);
  const Part<From> part{weight.const_data_ptr<From>(),
                        numbers_of(outs),
                        numbers_of(ins),
                        mask.defined() ? mask.const_data_ptr<float>() : nullptr,
                        static_cast<unsigned>(ins.count),
                        static_cast<unsigned>(weight.size(2) * weight.size(3)),
                        static_cast<unsigned>(weight.size(3)),
                        weight.stride(0),
                        weight.stride(1),
                        weight.stride(2),
                        weight.stride(3)};
  gather_kernel<<<static_cast<unsigned>(blocks), THREADS, 0, stream()>>>(part, to.data_ptr<T>(),
                                                                         rows, to.numel());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor gather_weight(const Tensor& weight_in, at::ScalarType type, const Selection& outs,
                     const Selection& ins, const Tensor& mask, Layout layout) {
  const c10::cuda::CUDAGuard guard(weight_in.device());
  // As autocast has it: rounded while it is gathered.
  const bool widened = weight_in.scalar_type() == at::kFloat && type != at::kFloat;
  const Tensor weight = widened ? weight_in : weight_in.to(type);
  Tensor to = at::empty({outs.count, ins.count, weight.size(2), weight.size(3)},
                        weight.options().dtype(type), format_of(layout));
  if (to.numel() == 0) return to;
  TORCH_CHECK_VALUE(ins.count * weight.size(2) * weight.size(3) < (int64_t{1} << 31),
                    "weight is too large");
  PT_DISPATCH(type, "gather_weight", [&] {
    if (widened)
      gather<float, scalar_t>(weight, to, outs, ins, mask, layout == Layout::Rows);
    else
      gather<scalar_t, scalar_t>(weight, to, outs, ins, mask, layout == Layout::Rows);
  });
  return to;
}

[[maybe_unused]] const bool set = [] {
  kernels_of(c10::DeviceType::CUDA).gather_weight = &gather_weight;
  return true;
}();

}  // namespace

}  // namespace pass_transfer
