// CPU kernel of normalisation, residual and ReLU; each tensor is read once.
#include "layout_cpu.h"
#include "relu_cpu.h"

namespace pass_transfer {

namespace {

template <typename T, typename A>
PT_MULTIVERSION void activate(const T* __restrict y, const T* __restrict residual,
                              T* __restrict out, A mean, A scale, A shift, bool relu,
                              int64_t count) {
  const A least = bound<A>(relu);
  if (residual) {
    for (int64_t i = 0; i < count; ++i) {
      const A value = (static_cast<A>(y[i]) - mean) * scale + shift + static_cast<A>(residual[i]);
      out[i] = static_cast<T>(value < least ? least : value);
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      const A value = (static_cast<A>(y[i]) - mean) * scale + shift;
      out[i] = static_cast<T>(value < least ? least : value);
    }
  }
}

// How each channel is normalised.
template <typename A>
struct Scales {
  const A *mean, *scale, *shift;
};

template <typename T, typename A>
PT_MULTIVERSION void activate_rows(Rows<T> y_rows, Rows<T> residual_rows, T* __restrict out,
                                   int64_t out_step, const Scales<A>& scales, bool relu,
                                   Block block) {
  const T* __restrict y = y_rows.data;
  const T* __restrict residual = residual_rows.data;
  const A* __restrict mean = scales.mean;
  const A* __restrict scale = scales.scale;
  const A* __restrict shift = scales.shift;
  const A least = bound<A>(relu);
  const int64_t y_step = y_rows.step, channels = block.channels;
  for (int64_t r = 0; r < block.rows; ++r, y += y_step, out += out_step) {
    if (residual) {
      for (int64_t c = 0; c < channels; ++c) {
        const A value =
            (static_cast<A>(y[c]) - mean[c]) * scale[c] + shift[c] + static_cast<A>(residual[c]);
        out[c] = static_cast<T>(value < least ? least : value);
      }
      residual += residual_rows.step;
    } else {
      for (int64_t c = 0; c < channels; ++c) {
        const A value = (static_cast<A>(y[c]) - mean[c]) * scale[c] + shift[c];
        out[c] = static_cast<T>(value < least ? least : value);
      }
    }
  }
}

Tensor norm_act(const Tensor& y_in, int64_t first, int64_t count, const Affine& affine,
                const OptionalTensor& residual_in, bool relu) {
  const Extent e = extent_of(y_in);
  const Tensor y = sliceable(y_in, e.layout);
  const Tensor residual = residual_in ? sliceable(*residual_in, e.layout) : Tensor();
  Tensor out = empty_as(e, y, count);
  if (out.numel() == 0) return out;
  const Tensor rounded = affine.scale.to(sums_of(y));
  PT_DISPATCH(y.scalar_type(), "norm_act", [&] {
    using A = typename Sums<scalar_t>::type;
    const View<scalar_t> v = view_of<scalar_t>(y, first), added = view_of<scalar_t>(residual);
    const View<scalar_t> o = view_of<scalar_t>(out);
    const Scales<A> s{affine.mean.const_data_ptr<A>() + first, rounded.const_data_ptr<A>() + first,
                      affine.shift.const_data_ptr<A>() + first};
    auto run = [&](int64_t n, int64_t c) {
      activate(v.run(n, c), added.run(n, c), o.run(n, c), s.mean[c], s.scale[c], s.shift[c], relu,
               e.positions);
    };
    auto rows = [&](int64_t from, int64_t some) {
      activate_rows(v.rows_from(from), added.rows_from(from), o.from_row(from), o.row, s, relu,
                    Block{some, count});
    };
    for_every(e, count, run, rows);
  });
  return out;
}

[[maybe_unused]] const bool set = [] {
  kernels_of(c10::DeviceType::CPU).norm_act = &norm_act;
  return true;
}();

}  // namespace

}  // namespace pass_transfer
