"""The wire formats that the service speaks. To add one: a file with a `Dialect`, and a line here."""

from reward_service.dialects import llamafactory, native, nemo_gym, openrlhf, slime, vllm

DIALECTS = (
    native.DIALECT,
    openrlhf.DIALECT,
    slime.DIALECT,
    llamafactory.DIALECT,
    nemo_gym.DIALECT,
    vllm.DIALECT,
)
