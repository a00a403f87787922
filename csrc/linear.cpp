// A masked linear layer is a masked 1 x 1 convolution of one position, on every device.
#include "arithmetic.h"

#include <ATen/core/dispatch/Dispatcher.h>

namespace pass_transfer {

Tensor masked_linear(const Tensor& x, const Tensor& weight, const Maybe& bias, const Maybe& in_mask, const Maybe& out_mask, c10::string_view gradient,
                     const Maybe& support, const Maybe& in_margin, const Maybe& out_margin) {
  TORCH_CHECK_VALUE(x.dim() >= 1, "x has shape ", x.sizes(), "; it must be (..., in)");
  TORCH_CHECK_VALUE(weight.dim() == 2, "weight has shape ", weight.sizes(), "; it must be (out, in)");
  TORCH_CHECK_VALUE(x.sym_size(-1) == weight.sym_size(1), "x has ", x.sym_size(-1), " features, weight takes ", weight.sym_size(1));
  using Conv = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Maybe&, const Maybe&, const Maybe&, c10::SymIntArrayRef, c10::SymIntArrayRef,
                                          c10::SymIntArrayRef, c10::SymInt, c10::string_view, const Maybe&, const Maybe&, const Maybe&);
  static const auto conv = c10::Dispatcher::singleton().findSchemaOrThrow("pass_transfer::masked_conv2d", "").typed<Conv>();
  const c10::SymInt one = 1, zero = 0;
  const c10::SymInt ones[] = {one, one}, zeros[] = {zero, zero};
  const auto sizes = x.sym_sizes();
  std::vector<c10::SymInt> shape(sizes.begin(), sizes.end());
  c10::SymInt rows = one;
  for (size_t d = 0; d + 1 < shape.size(); ++d) rows = rows * shape[d];
  shape.back() = weight.sym_size(0);
  const Tensor image = x.reshape_symint({rows, weight.sym_size(1), one, one}), kernel = weight.unsqueeze(2).unsqueeze(3);
  return std::get<0>(conv.call(image, kernel, bias, in_mask, out_mask, ones, zeros, ones, one, gradient, support, in_margin, out_margin)).reshape_symint(shape);
}

TORCH_LIBRARY_IMPL(pass_transfer, CompositeImplicitAutograd, m) { m.impl("masked_linear", &masked_linear); }

}  // namespace pass_transfer
