// A masked linear layer is a masked 1 x 1 convolution of one position, on every device.
#include "arguments.h"

namespace pass_transfer {

namespace {

void check(const Tensor& x, const Tensor& weight) {
  TORCH_CHECK_VALUE(x.dim() >= 1, "x has shape ", x.sizes(), "; it must be (..., in)");
  TORCH_CHECK_VALUE(weight.dim() == 2, "weight has shape ", weight.sizes(),
                    "; it must be (out, in)");
  TORCH_CHECK_VALUE(x.sym_size(-1) == weight.sym_size(1), "x has ", x.sym_size(-1),
                    " features, weight takes ", weight.sym_size(1));
}

// What the convolution is given by its schema's name for it; the rest as the linear layer has it.
c10::IValue for_convolution(const std::string& name, const Arguments& given) {
  const c10::SymInt one = 1;
  if (name == "x") {
    const Tensor x = given.tensor("x");
    c10::SymInt rows = one;
    for (int64_t d = 0; d + 1 < x.dim(); ++d) rows = rows * x.sym_size(d);
    return x.reshape_symint({rows, x.sym_size(-1), one, one});
  }
  if (name == "weight") return given.tensor("weight").unsqueeze(2).unsqueeze(3);
  if (name == "stride" || name == "dilation") return std::vector<int64_t>{1, 1};
  if (name == "padding") return std::vector<int64_t>{0, 0};
  if (name == "groups") return int64_t{1};
  if (name == "gradient") return given.word("gradient");
  return given.optional(name);
}

Results masked_linear(const Arguments& given) {
  const Tensor x = given.tensor("x"), weight = given.tensor("weight");
  check(x, weight);
  static const auto convolution =
      c10::Dispatcher::singleton().findSchemaOrThrow("pass_transfer::masked_conv2d", "");
  torch::jit::Stack stack;
  for (const c10::Argument& argument : convolution.schema().arguments())
    stack.push_back(for_convolution(argument.name(), given));
  convolution.callBoxed(&stack);
  auto shape = x.sym_sizes().vec();
  shape.back() = weight.sym_size(0);
  return {{"y", stack.front().toTensor().reshape_symint(shape)}};
}

}  // namespace

TORCH_LIBRARY_IMPL(pass_transfer, CompositeImplicitAutograd, m) {
  m.impl("masked_linear", torch::CppFunction::makeFromBoxedFunction<&boxed<masked_linear>>());
}

}  // namespace pass_transfer
