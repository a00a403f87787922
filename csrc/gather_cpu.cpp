// CPU kernels that gather channels of activations, and outputs and inputs of weights.
#include "layout_cpu.h"

namespace pass_transfer {

namespace {

template <typename T>
void take_rows(const T* x, int64_t x_row, T* out, int64_t o_row, const int64_t* numbers,
               int64_t rows, int64_t channels) {
  for (int64_t r = 0; r < rows; ++r, x += x_row, out += o_row)
    for (int64_t c = 0; c < channels; ++c) out[c] = numbers[c] < 0 ? T(0) : x[numbers[c]];
}

Tensor take_channels(const Tensor& x_in, const Tensor& numbers_in) {
  const Extent e = extent_of(x_in);
  const Tensor x = sliceable(x_in, e.layout), numbers = numbers_in.contiguous();
  const int64_t channels = numbers.numel();
  Tensor out = empty_as(e, x, channels);
  if (out.numel() == 0) return out;
  const int64_t* from = numbers.const_data_ptr<int64_t>();
  PT_DISPATCH(x.scalar_type(), "take_channels", [&] {
    const View<scalar_t> v = view_of<scalar_t>(x), o = view_of<scalar_t>(out);
    for_every(
        e, channels,
        [&](int64_t n, int64_t c) {
          if (from[c] < 0)
            std::fill_n(o.run(n, c), e.positions, scalar_t(0));
          else
            std::copy_n(v.run(n, from[c]), e.positions, o.run(n, c));
        },
        [&](int64_t first, int64_t rows) {
          take_rows(v.from_row(first), v.row, o.from_row(first), o.row, from, rows, channels);
        });
  });
  return out;
}

// to[i] = from[offsets[i]] * factors[i]; without factors as they are. What is scattered is read for
// itself, so that rounding runs over vectors.
template <typename S, typename T>
PT_MULTIVERSION void take(const S* __restrict from, const int64_t* __restrict offsets,
                          const float* __restrict factors, T* __restrict to, int64_t count) {
  using A = typename Sums<T>::type;
  constexpr int64_t BLOCK = 256;
  S block[BLOCK];
  for (int64_t first = 0; first < count; first += BLOCK) {
    const int64_t some = std::min(BLOCK, count - first);
    for (int64_t i = 0; i < some; ++i) block[i] = from[offsets[first + i]];
    if (factors) {
      for (int64_t i = 0; i < some; ++i)
        to[first + i] =
            static_cast<T>(static_cast<A>(block[i]) * static_cast<A>(factors[first + i]));
    } else {
      for (int64_t i = 0; i < some; ++i) to[first + i] = static_cast<T>(block[i]);
    }
  }
}

// Rows `outs` and columns `ins` of a weight (O, I, kh, kw), each times its input's mask, laid out
// as `layout` has it.
template <typename S, typename T>
void gather_into(const Tensor& weight, const int64_t* outs, int64_t out_count, const int64_t* ins,
                 int64_t in_count, const float* mask, Tensor& to, Layout layout) {
  const int64_t area = weight.size(2) * weight.size(3), width = weight.size(3);
  const S* from = weight.const_data_ptr<S>();
  T* target = to.data_ptr<T>();
  const int64_t so = weight.stride(0), si = weight.stride(1), sh = weight.stride(2),
                sw = weight.stride(3);
  std::vector<int64_t> offsets(in_count);
  for (int64_t i = 0; i < in_count; ++i) offsets[i] = (ins ? ins[i] : i) * si;
  at::parallel_for(
      0, out_count, std::max<int64_t>(1, 32768 / std::max<int64_t>(1, in_count * area)),
      [&](int64_t a, int64_t b) {
        for (int64_t o = a; o < b; ++o) {
          const S* row = from + (outs ? outs[o] : o) * so;
          T* out = target + o * in_count * area;
          if (layout == Layout::Planes) {
            for (int64_t i = 0; i < in_count; ++i, out += area) {
              const S* cell = row + offsets[i];
              const T factor = mask ? static_cast<T>(mask[i]) : T(1);
              if (sw == 1 && sh == width) {
                for (int64_t k = 0; k < area; ++k) out[k] = static_cast<T>(cell[k]) * factor;
              } else {
                for (int64_t k = 0; k < area; ++k)
                  out[k] = static_cast<T>(cell[(k / width) * sh + (k % width) * sw]) * factor;
              }
            }
          } else {
            for (int64_t k = 0; k < area; ++k, out += in_count)
              take<S, T>(row + (k / width) * sh + (k % width) * sw, offsets.data(), mask, out,
                         in_count);
          }
        }
      });
}

Tensor gather_weight(const Tensor& weight_in, at::ScalarType type, const Selection& outs,
                     const Selection& ins, const Tensor& mask, Layout layout) {
  const bool rounds = weight_in.scalar_type() == at::kFloat &&
                      at::isReducedFloatingType(type);  // while it gathers; else before
  const Tensor weight = rounds ? weight_in : weight_in.to(type);
  Tensor to = at::empty({outs.count, ins.count, weight.size(2), weight.size(3)},
                        weight.options().dtype(type), format_of(layout));
  if (to.numel() == 0) return to;
  const Tensor rows = outs.index.defined() ? outs.index.contiguous() : Tensor(),
               columns = ins.index.defined() ? ins.index.contiguous() : Tensor();
  const int64_t* out_index = rows.defined() ? rows.const_data_ptr<int64_t>() : nullptr;
  const int64_t* in_index = columns.defined() ? columns.const_data_ptr<int64_t>() : nullptr;
  const float* factors = mask.defined() ? mask.const_data_ptr<float>() : nullptr;
  PT_DISPATCH(type, "gather_weight", [&] {
    if (rounds)
      gather_into<float, scalar_t>(weight, out_index, outs.count, in_index, ins.count, factors, to,
                                   layout);
    else
      gather_into<scalar_t, scalar_t>(weight, out_index, outs.count, in_index, ins.count, factors,
                                      to, layout);
  });
  return to;
}

[[maybe_unused]] const bool set = [] {
  kernels_of(c10::DeviceType::CPU).take_channels = &take_channels;
  kernels_of(c10::DeviceType::CPU).gather_weight = &gather_weight;
  return true;
}();

}  // namespace

}  // namespace pass_transfer
