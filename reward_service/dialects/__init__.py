"""The wire formats that the service speaks. To add one: a file with a `Dialect`, and a line here."""

from reward_service.dialects import infinity, llamafactory, native, nemo_gym, openrlhf, sglang, slime, tei, vllm

DIALECTS = (
    native.DIALECT,
    openrlhf.DIALECT,
    slime.DIALECT,
    llamafactory.DIALECT,
    nemo_gym.DIALECT,
    vllm.DIALECT,
    sglang.DIALECT,
    tei.DIALECT,
    infinity.DIALECT,
)
