// CUDA kernels of normalisation by a batch's statistics, residual and ReLU, and of their gradients.
#include "gradient_cuda.h"

namespace pass_transfer {

namespace {

using namespace walk;

template <typename T>
struct Spread {  // sums of values about the channel's first one, and of their squares
  using Type = T;
  using A = typename Compute<T>::A;
  using Sum = typename Compute<T>::Sum;
  static constexpr int READS = 1, WRITES = 0;
  static constexpr bool SUMS = true;
  View<T> reads[1], writes[1], whole;
  struct Of {
    A pivot;
  };
  __device__ Of of(int64_t c) const { return {static_cast<A>(whole.data[c * whole.channel])}; }
  __device__ bool skips(const Of&) const { return true; }
  __device__ void operator()(const Of& of, const A* in, A*, Sum& one, Sum& two) const {
    const Sum d = static_cast<Sum>(in[0]) - static_cast<Sum>(of.pivot);
    one += d;
    two += d * d;
  }
};

template <typename T, typename W>
struct Statistics {
  using A = typename Compute<T>::A;
  View<T> y;
  A *mean, *shift;
  double *invstd, *scale, count, eps;
  const W *weight, *bias;
  const int64_t* which;
  __device__ void operator()(int64_t c, double one, double two) const {
    const int64_t w = which ? which[c] : c;
    const double off = one / count, variance = two / count - off * off,
                 inverse = 1.0 / sqrt((variance > 0 ? variance : 0) + eps);
    mean[c] = static_cast<A>(static_cast<double>(static_cast<A>(y.data[c * y.channel])) + off);
    invstd[c] = inverse;
    scale[c] = static_cast<double>(weight[w]) * inverse;
    shift[c] = static_cast<A>(bias[w]);
  }
};

template <typename T, bool ADDED>
struct Activate {
  using Type = T;
  using A = typename Compute<T>::A;
  using Sum = A;
  static constexpr int READS = 1 + ADDED, WRITES = 1;
  static constexpr bool SUMS = false;
  View<T> reads[READS], writes[1];
  const A *mean, *shift;
  const double* scale;
  A least;
  struct Of {
    A mean, scale, shift;
  };
  __device__ Of of(int64_t c) const { return {mean[c], static_cast<A>(scale[c]), shift[c]}; }
  __device__ bool skips(const Of&) const { return false; }
  __device__ void operator()(const Of& of, const A* in, A* out, Sum&, Sum&) const {
    A value = (in[0] - of.mean) * of.scale + of.shift;
    if constexpr (ADDED) value += in[1];
    out[0] = value < least ? least : value;
  }
};

template <typename T>
struct Through {
  using Type = T;
  using A = typename Compute<T>::A;
  using Sum = A;
  static constexpr int READS = 2, WRITES = 1;
  static constexpr bool SUMS = false;
  View<T> reads[2], writes[1];
  A least;
  struct Of {};
  __device__ Of of(int64_t) const { return {}; }
  __device__ bool skips(const Of&) const { return false; }
  __device__ void operator()(const Of&, const A* in, A* out, Sum&, Sum&) const {
    out[0] = in[1] <= least ? A(0) : in[0];
  }
};

Affine normalisation(const Tensor& y_in, double eps, const Tensor& weight_in, const Tensor& bias_in,
                     const Selection& which) {
  const c10::cuda::CUDAGuard guard(y_in.device());
  const Extent e = extent_of(y_in);
  const auto kind = weight_in.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor y = even(y_in, e), weight = weight_in.to(kind).contiguous(),
               bias = bias_in.to(kind).contiguous();
  const auto sums = y.options().dtype(sums_of(y)), doubles = y.options().dtype(at::kDouble);
  if (e.numel() == 0)
    return {at::zeros({e.channels}, sums), at::zeros({e.channels}, doubles),
            at::zeros({e.channels}, doubles), which.of(bias).to(sums_of(y))};
  Affine found{at::empty({e.channels}, sums), at::empty({e.channels}, doubles),
               at::empty({e.channels}, doubles), at::empty({e.channels}, sums)};
  PT_DISPATCH(y.scalar_type(), "normalisation", [&] {
    using A = typename Compute<scalar_t>::A;
    using Sum = typename Compute<scalar_t>::Sum;
    const View<scalar_t> v = view_of<scalar_t>(y);
    const Tensor partial = every(Spread<scalar_t>{{v}, {}, v}, e, y);
    auto settle = [&](auto of_weights) {
      using W = decltype(of_weights);
      finish<Sum>(partial,
                  Statistics<scalar_t, W>{
                      v, found.mean.data_ptr<A>(), found.shift.data_ptr<A>(),
                      found.invstd.data_ptr<double>(), found.scale.data_ptr<double>(),
                      static_cast<double>(e.count()), eps, weight.const_data_ptr<W>(),
                      bias.const_data_ptr<W>(),
                      which.index.defined() ? which.index.const_data_ptr<int64_t>() : nullptr});
    };
    if (kind == at::kDouble)
      settle(double());
    else
      settle(float());
  });
  return found;
}

Tensor norm_act(const Tensor& y_in, int64_t first, int64_t count, const Affine& affine,
                const OptionalTensor& residual_in, bool relu) {
  const c10::cuda::CUDAGuard guard(y_in.device());
  Extent e = extent_of(y_in);
  e.channels = count;
  const Tensor y = even(y_in, e), residual = residual_in ? even(*residual_in, e) : Tensor();
  Tensor out = empty_as(e, y, count);
  if (e.numel() == 0) return out;
  PT_DISPATCH(y.scalar_type(), "norm_act", [&] {
    using A = typename Compute<scalar_t>::A;
    const View<scalar_t> v = view_of<scalar_t>(y, first), o = view_of<scalar_t>(out);
    const A *mean = affine.mean.const_data_ptr<A>() + first,
            *shift = affine.shift.const_data_ptr<A>() + first;
    const double* scale = affine.scale.const_data_ptr<double>() + first;
    if (residual.defined())
      every(
          Activate<scalar_t, true>{
              {v, view_of<scalar_t>(residual)}, {o}, mean, shift, scale, bound<A>(relu)},
          e, y);
    else
      every(Activate<scalar_t, false>{{v}, {o}, mean, shift, scale, bound<A>(relu)}, e, y);
  });
  return out;
}

std::tuple<Tensor, Tensor> norm_act_backward(const Tensor& grad_in, const Tensor& a_in,
                                             const Tensor& y_in, const Affine& affine, bool relu,
                                             bool added, bool wants_residual) {
  const c10::cuda::CUDAGuard guard(a_in.device());
  const Extent e = extent_of(a_in);
  const Tensor a = even(a_in, e), grad = even(grad_in, e);
  Tensor out = empty_as(e, a, e.channels);
  const bool normed = affine.defined();
  if (e.numel() == 0) return {out, wants_residual ? at::zeros_like(out) : Tensor()};
  Tensor passed = wants_residual && normed ? empty_as(e, a, e.channels) : Tensor();
  PT_DISPATCH(a.scalar_type(), "norm_act_backward", [&] {
    using A = typename Compute<scalar_t>::A;
    using Sum = typename Compute<scalar_t>::Sum;
    const A least = bound<A>(relu);
    const View<scalar_t> g = view_of<scalar_t>(grad), o = view_of<scalar_t>(out),
                         active = view_of<scalar_t>(a);
    if (!normed) {
      every(Through<scalar_t>{{g, active}, {o}, least}, e, a);
      return;
    }
    const Tensor y = even(y_in, e), first = at::empty({e.channels}, affine.scale.options()),
                 second = at::empty({e.channels}, affine.scale.options());
    const View<scalar_t> v = view_of<scalar_t>(y),
                         p = passed.defined() ? view_of<scalar_t>(passed) : View<scalar_t>{};
    const A *mean = affine.mean.const_data_ptr<A>(), *shift = affine.shift.const_data_ptr<A>();
    const double* scale = affine.scale.const_data_ptr<double>();
    auto settle = [&](const Tensor& partial) {
      finish<Sum>(partial,
                  Slopes{first.data_ptr<double>(), second.data_ptr<double>(),
                         static_cast<double>(e.count()), affine.invstd.const_data_ptr<double>()});
    };
    auto spread = [&](auto body) { every(body, e, a); };
    const double *mean_of_g = first.const_data_ptr<double>(),
                 *slope = second.const_data_ptr<double>();
    if (passed.defined()) {  // what ReLU let through is written down, and read again
      if (relu)
        settle(every(
            GradientSums<scalar_t, Gate::Activation, true>{
                {g, v, active}, {p}, mean, shift, scale, least},
            e, a));
      else
        settle(
            every(GradientSums<scalar_t, Gate::Open, true>{{g, v}, {p}, mean, shift, scale, least},
                  e, a));
      spread(Normalised<scalar_t, Gate::Open>{
          {p, v}, {o}, mean, shift, scale, mean_of_g, slope, least});
    } else if (!relu) {
      settle(every(GradientSums<scalar_t, Gate::Open, false>{{g, v}, {}, mean, shift, scale, least},
                   e, a));
      spread(Normalised<scalar_t, Gate::Open>{
          {g, v}, {o}, mean, shift, scale, mean_of_g, slope, least});
    } else if (added) {
      settle(every(
          GradientSums<scalar_t, Gate::Activation, false>{
              {g, v, active}, {}, mean, shift, scale, least},
          e, a));
      spread(Normalised<scalar_t, Gate::Activation>{
          {g, v, active}, {o}, mean, shift, scale, mean_of_g, slope, least});
    } else {
      settle(every(
          GradientSums<scalar_t, Gate::Value, false>{{g, v}, {}, mean, shift, scale, least}, e, a));
      spread(Normalised<scalar_t, Gate::Value>{
          {g, v}, {o}, mean, shift, scale, mean_of_g, slope, least});
    }
  });
  return {out, wants_residual ? (normed ? passed : out) : Tensor()};
}

[[maybe_unused]] const bool set = [] {
  Kernels& kernels = kernels_of(c10::DeviceType::CUDA);
  kernels.normalisation = &normalisation;
  kernels.norm_act = &norm_act;
  kernels.norm_act_backward = &norm_act_backward;
  return true;
}();

}  // namespace

}  // namespace pass_transfer
