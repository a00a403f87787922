// CUDA kernels of x * mask over channels, and of masks' gradients.
#include "walk_cuda.h"

namespace pass_transfer {

namespace {

using namespace walk;

template <typename T>
struct Product {
  using Type = T;
  using A = typename Compute<T>::A;
  using Sum = A;
  static constexpr int READS = 1, WRITES = 1;
  static constexpr bool SUMS = false;
  View<T> reads[1], writes[1];
  const A* mask;
  struct Of {
    A mask;
  };
  __device__ Of of(int64_t c) const { return {mask[c]}; }
  __device__ bool skips(const Of&) const { return false; }
  __device__ void operator()(const Of& of, const A* in, A* out, Sum&, Sum&) const {
    out[0] = in[0] * of.mask;
  }
};

enum class Writes { Nothing, Everything, Changes };

// Sums of x * g, and mask * g in the same pass:
// for all channels, or (in place) for those that the mask changes.
template <typename T, Writes WHAT>
struct Dot {
  using Type = T;
  using A = typename Compute<T>::A;
  using Sum = typename Compute<T>::Sum;
  static constexpr int READS = 2, WRITES = WHAT == Writes::Nothing ? 0 : 1;
  static constexpr bool SUMS = true;
  View<T> reads[2], writes[1];
  const A* mask;
  struct Of {
    A mask;
  };
  __device__ Of of(int64_t c) const { return {WRITES ? mask[c] : A(1)}; }
  __device__ bool skips(const Of& of) const {
    return WHAT != Writes::Everything && of.mask == A(1);
  }
  __device__ void operator()(const Of& of, const A* in, A* out, Sum& one, Sum&) const {
    one += static_cast<Sum>(in[0]) * static_cast<Sum>(in[1]);
    if constexpr (WRITES > 0) out[0] = in[1] * of.mask;
  }
};

template <typename A>
struct First {
  A* sums;
  __device__ void operator()(int64_t c, double one, double) const { sums[c] = static_cast<A>(one); }
};

Tensor as_sums(const Tensor& t, const Tensor& x) { return t.to(sums_of(x)).contiguous(); }

// <x_c, g_c> with g's channels from `first` on, into sums (channels of x,).
void dots(const Tensor& x_in, const Tensor& g_in, int64_t first, Writes what, const Tensor& mask,
          const Tensor& out, Tensor sums) {
  Extent e = extent_of(g_in);
  e.channels = x_in.size(1);
  const Tensor x = even(x_in, e), g = even(g_in, e);
  TORCH_INTERNAL_ASSERT(what != Writes::Changes || g.is_same(g_in));
  PT_DISPATCH(x.scalar_type(), "mask_gradient", [&] {
    using A = typename Compute<scalar_t>::A;
    const View<scalar_t> v = view_of<scalar_t>(x), w = view_of<scalar_t>(g, first);
    Tensor partial;
    if (what == Writes::Nothing)
      partial = every(Dot<scalar_t, Writes::Nothing>{{v, w}, {}, nullptr}, e, x);
    else if (what == Writes::Changes)
      partial = every(Dot<scalar_t, Writes::Changes>{{v, w}, {w}, mask.const_data_ptr<A>()}, e, x);
    else
      partial = every(
          Dot<scalar_t, Writes::Everything>{
              {v, w}, {view_of<scalar_t>(out)}, mask.const_data_ptr<A>()},
          e, x);
    finish<typename Compute<scalar_t>::Sum>(partial, First<A>{sums.data_ptr<A>()});
  });
}

Tensor mask_gradient(const Tensor& x, const OptionalTensor& dropped, const Tensor& mask_in,
                     Tensor& g, bool masks) {
  const c10::cuda::CUDAGuard guard(x.device());
  const int64_t ins = x.size(1), shadows = dropped ? dropped->size(1) : 0;
  const Tensor mask = as_sums(mask_in, x);
  if (x.numel() == 0) return at::zeros_like(mask_in);
  Tensor found = shadows && g.size(1) == ins ? at::zeros({ins + shadows}, mask.options())
                                             : at::empty({ins + shadows}, mask.options());
  dots(x, g, 0, masks ? Writes::Changes : Writes::Nothing, mask, g, found.narrow(0, 0, ins));
  if (shadows && g.size(1) > ins)
    dots(*dropped, g, ins, Writes::Nothing, mask, g, found.narrow(0, ins, shadows));
  return found.to(mask_in.scalar_type());
}

Tensor mask_channels(const Tensor& x_in, const Tensor& mask_in) {
  const c10::cuda::CUDAGuard guard(x_in.device());
  const Extent e = extent_of(x_in);
  const Tensor x = even(x_in, e), mask = as_sums(mask_in, x);
  Tensor out = empty_as(e, x, e.channels);
  if (e.numel() == 0) return out;
  PT_DISPATCH(x.scalar_type(), "mask_channels", [&] {
    every(Product<scalar_t>{{view_of<scalar_t>(x)},
                            {view_of<scalar_t>(out)},
                            mask.const_data_ptr<typename Compute<scalar_t>::A>()},
          e, x);
  });
  return out;
}

std::tuple<Tensor, Tensor> mask_channels_backward(const Tensor& grad, const Tensor& x,
                                                  const Tensor& mask) {
  const c10::cuda::CUDAGuard guard(x.device());
  const Extent e = extent_of(x);
  Tensor out = empty_as(e, x, e.channels),
         sums = at::empty({e.channels}, x.options().dtype(sums_of(x)));
  if (e.numel() == 0) return {out, at::zeros_like(mask)};
  dots(x, grad, 0, Writes::Everything, as_sums(mask, x), out, sums);
  return {out, sums.to(mask.scalar_type())};
}

[[maybe_unused]] const bool set = [] {
  Kernels& kernels = kernels_of(c10::DeviceType::CUDA);
  kernels.mask_channels = &mask_channels;
  kernels.mask_channels_backward = &mask_channels_backward;
  kernels.mask_gradient = &mask_gradient;
  return true;
}();

}  // namespace

}  // namespace pass_transfer
