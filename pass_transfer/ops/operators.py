"""Names of the registered operators, as csrc/library.cpp has them; known without the extension."""

OPERATORS = (
    "global_topk_mask",
    "global_topk_weights",
    "mask_channels",
    "mask_channels_backward",
    "masked_conv2d",
    "masked_conv2d_backward",
    "masked_linear",
    "masked_conv_norm_act",
    "masked_conv_norm_act_backward",
)
