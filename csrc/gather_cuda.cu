// CUDA kernel that gathers outputs and inputs of a weight, and rounds them where a weight is kept
// in float32.
#include "walk_cuda.h"

namespace pass_transfer {

namespace {

using namespace walk;

template <typename From, typename T>
__global__ void __launch_bounds__(THREADS)
    gather_kernel(const From* from, T* to, const int64_t* outs, const int64_t* ins,
                  const float* mask, unsigned in_count, unsigned area, unsigned width, int64_t so,
                  int64_t si, int64_t sh, int64_t sw, bool rows, int64_t numel) {
  const unsigned each = in_count * area;
  for (int64_t at = blockIdx.x * static_cast<int64_t>(THREADS) + threadIdx.x; at < numel;
       at += static_cast<int64_t>(THREADS) * gridDim.x) {
    const int64_t o = at / each;
    const unsigned inner = static_cast<unsigned>(at - o * each),
                   i = rows ? inner % in_count : inner / area,
                   k = rows ? inner / in_count : inner % area;
    const From value =
        from[(outs ? outs[o] : o) * so + (ins ? ins[i] : static_cast<int64_t>(i)) * si +
             (k / width) * sh + (k % width) * sw];
    to[at] = mask && mask[i] == 0.0f   ? static_cast<T>(0.0f)
             : mask && mask[i] != 1.0f ? static_cast<T>(static_cast<float>(value) * mask[i])
                                       : static_cast<T>(value);
  }
}

template <typename From, typename T>
void gather(const Tensor& weight, Tensor& to, const Selection& outs, const Selection& ins,
            const Tensor& mask, bool rows) {
  const int64_t blocks = std::min<int64_t>(ceil_div(to.numel(), THREADS), 8192);
  gather_kernel<<<static_cast<unsigned>(blocks), THREADS, 0, stream()>>>(
      weight.const_data_ptr<From>(), to.data_ptr<T>(),
      outs.index.defined() ? outs.index.const_data_ptr<int64_t>() : nullptr,
      ins.index.defined() ? ins.index.const_data_ptr<int64_t>() : nullptr,
      mask.defined() ? mask.const_data_ptr<float>() : nullptr, static_cast<unsigned>(ins.count),
      static_cast<unsigned>(weight.size(2) * weight.size(3)), static_cast<unsigned>(weight.size(3)),
      weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3), rows, to.numel());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor gather_weight(const Tensor& weight_in, at::ScalarType type, const Selection& outs,
                     const Selection& ins, const Tensor& mask, Layout layout) {
  const c10::cuda::CUDAGuard guard(weight_in.device());
  const bool widened = weight_in.scalar_type() == at::kFloat &&
                       type != at::kFloat;  // as autocast has it: rounded while it is gathered
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
