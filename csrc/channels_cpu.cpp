// CPU kernels of x * mask over channels.
#include "kernels.h"

namespace pass_transfer {

namespace {

constexpr int64_t GRAIN = 1 << 15;   // elements that are worth a thread
constexpr int64_t CHUNKS = 16;       // partial sums of the Rows layout: fixed, so that any number of threads sums alike
constexpr int64_t LANES = 16;        // partial sums within a run of positions: one vector register

template <typename T>
inline float as_float(T value) { return static_cast<float>(value); }

// g <- m * g over a run of one channel's positions; returns <x, g>.
template <typename T>
PT_MULTIVERSION float scale_and_dot(const T* x, const T* g, T* out, float m, int64_t count) {
  float lanes[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    for (int64_t j = 0; j < LANES; ++j) {
      const float value = as_float(g[i + j]);
      lanes[j] += as_float(x[i + j]) * value;
      out[i + j] = static_cast<T>(value * m);
    }
  }
  float sum = 0;
  for (; i < count; ++i) {
    const float value = as_float(g[i]);
    sum += as_float(x[i]) * value;
    out[i] = static_cast<T>(value * m);
  }
  for (float lane : lanes) sum += lane;
  return sum;
}

// The same over rows of all channels: sums (C,) grow by <x_c, g_c>.
template <typename T>
PT_MULTIVERSION void scale_and_dot_rows(const T* x, const T* g, T* out, const float* m, float* sums, int64_t rows, int64_t channels) {
  for (int64_t r = 0; r < rows; ++r, x += channels, g += channels, out += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const float value = as_float(g[c]);
      sums[c] += as_float(x[c]) * value;
      out[c] = static_cast<T>(value * m[c]);
    }
  }
}

template <typename T>
PT_MULTIVERSION void scale(const T* x, T* out, float m, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(as_float(x[i]) * m);
}

template <typename T>
PT_MULTIVERSION void scale_rows(const T* x, T* out, const float* m, int64_t rows, int64_t channels) {
  for (int64_t r = 0; r < rows; ++r, x += channels, out += channels)
    for (int64_t c = 0; c < channels; ++c) out[c] = static_cast<T>(as_float(x[c]) * m[c]);
}

struct Shape {
  int64_t batch, channels, positions;
  explicit Shape(const Tensor& x) : batch(x.size(0)), channels(x.size(1)), positions(1) {
    for (int64_t d = 2; d < x.dim(); ++d) positions *= x.size(d);
  }
  bool rows(const Tensor& x) const { return layout_of(x) == Layout::Rows || positions == 1; }
};

Tensor mask_channels_cpu(const Tensor& x, const Tensor& mask) {
  if (x.scalar_type() == at::kDouble) {
    std::vector<int64_t> shape(x.dim(), 1);
    shape[1] = x.size(1);
    return x * mask.to(at::kDouble).view(shape);
  }
  Tensor out = empty_like_dense(x);
  if (x.numel() == 0) return out;
  const Tensor m = mask.to(at::kFloat).contiguous();
  const float* values = m.data_ptr<float>();
  const Shape s(x);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "mask_channels", [&] {
    const scalar_t* from = x.data_ptr<scalar_t>();
    scalar_t* to = out.data_ptr<scalar_t>();
    if (s.rows(x)) {
      at::parallel_for(0, s.batch * s.positions, std::max<int64_t>(1, GRAIN / s.channels), [&](int64_t a, int64_t b) {
        scale_rows(from + a * s.channels, to + a * s.channels, values, b - a, s.channels);
      });
    } else {
      at::parallel_for(0, s.batch * s.channels, std::max<int64_t>(1, GRAIN / s.positions), [&](int64_t a, int64_t b) {
        for (int64_t i = a; i < b; ++i) scale(from + i * s.positions, to + i * s.positions, values[i % s.channels], s.positions);
      });
    }
  });
  return out;
}

// Gradients of x * mask: (mask * grad, <x_c, grad_c> for every channel), in one pass over both tensors.
std::tuple<Tensor, Tensor> mask_channels_backward_cpu(const Tensor& grad_in, const Tensor& x, const Tensor& mask) {
  const Tensor grad = layout_of(x) == Layout::Rows ? grad_in.contiguous(at::MemoryFormat::ChannelsLast) : grad_in.contiguous();
  if (x.scalar_type() == at::kDouble) {
    std::vector<int64_t> shape(x.dim(), 1), others;
    shape[1] = x.size(1);
    for (int64_t d = 0; d < x.dim(); ++d) if (d != 1) others.push_back(d);
    return {grad * mask.to(at::kDouble).view(shape), (x * grad).sum(others).to(mask.scalar_type())};
  }
  Tensor out = empty_like_dense(x);
  const Shape s(x);
  Tensor sums = at::zeros({s.channels}, mask.options().dtype(at::kFloat));
  if (x.numel() == 0) return {out, sums.to(mask.scalar_type())};
  const Tensor m = mask.to(at::kFloat).contiguous();
  const float* values = m.data_ptr<float>();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "mask_channels_backward", [&] {
    const scalar_t* xs = x.data_ptr<scalar_t>();
    const scalar_t* gs = grad.data_ptr<scalar_t>();
    scalar_t* to = out.data_ptr<scalar_t>();
    if (s.rows(x)) {
      const int64_t rows = s.batch * s.positions, step = (rows + CHUNKS - 1) / CHUNKS;
      Tensor partial = at::zeros({CHUNKS, s.channels}, sums.options());
      float* parts = partial.data_ptr<float>();
      at::parallel_for(0, CHUNKS, std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, step * s.channels)), [&](int64_t a, int64_t b) {
        for (int64_t chunk = a; chunk < b; ++chunk) {
          const int64_t first = std::min(rows, chunk * step), count = std::min(rows, first + step) - first;
          scale_and_dot_rows(xs + first * s.channels, gs + first * s.channels, to + first * s.channels, values, parts + chunk * s.channels, count, s.channels);
        }
      });
      sums = partial.sum(0);
    } else {
      float* totals = sums.data_ptr<float>();
      at::parallel_for(0, s.channels, std::max<int64_t>(1, GRAIN / (s.batch * s.positions)), [&](int64_t a, int64_t b) {
        for (int64_t c = a; c < b; ++c) {
          double total = 0;
          for (int64_t n = 0; n < s.batch; ++n) {
            const int64_t at = (n * s.channels + c) * s.positions;
            total += scale_and_dot(xs + at, gs + at, to + at, values[c], s.positions);
          }
          totals[c] = static_cast<float>(total);
        }
      });
    }
  });
  return {out, sums.to(mask.scalar_type())};
}

[[maybe_unused]] const bool set = [] {
  kernels_of(c10::DeviceType::CPU).mask_channels = &mask_channels_cpu;
  kernels_of(c10::DeviceType::CPU).mask_channels_backward = &mask_channels_backward_cpu;
  return true;
}();

}  // namespace

}  // namespace pass_transfer
