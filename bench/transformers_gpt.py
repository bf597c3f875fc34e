"""seq.gpt beside the package transformers: the same layers, 10.6 M parameters, 256 characters of 65 kinds.

Both are Llama's layers: six blocks of width 384, six heads, gated units of 1,024. A step is forward, backward
and optimiser (Muon and AdamW here, fused AdamW there) on 32 texts, both with memory kept as genloom keeps it;
drawing is 255 symbols after one, each contender with its cache, at batches of 1 and 32. The peer runs at its
best of float32, bfloat16, compiled and static cache. First the two must give the same logits.

With two runs on the same characters, one of seq.gpt in these sizes and one of seq.ngram, both draw by the
trained weights, genloom also with the guesses of the second, and the peer with guesses from what it has
written (prompt lookup, which takes one text at a time).

    python bench/transformers_gpt.py [--quick] [--threads 2] [--rounds 5] [--trained RUN --helper RUN]
"""

import copy
import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from racing import Variant, attempt, compare, fastest, parser
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from genloom.core.events import Categorical, Leaf
from genloom.core.objective import Clock
from genloom.core.randomness import SampleNoise, TrainNoise, generator
from genloom.families.seq_gpt import Config
from genloom.nn.decoding import Choice, collect, no_prompts, stream
from genloom.nn.llama import Weights, fill
from genloom.nn.sequences import SequenceModel
from genloom.nn.speculating import AHEAD, speculate
from genloom.nn.transformer import CausalTransformer, compile_reading
from genloom.recipes.runs import open_run
from genloom.train.memory import kept_memory
from genloom.train.state import State

KINDS, LENGTH, BATCH = 65, 256, 32
EVENT = Leaf((LENGTH,), Categorical(KINDS))
SIZES = {"width": 384, "layers": 6, "heads": 6, "groups": 6, "dropout": 0.0}


def ours() -> SequenceModel:
    torch.manual_seed(0)
    return Config(**SIZES).build(EVENT, None)


def theirs(kinds: int = KINDS, **more: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    made = LlamaConfig(
        vocab_size=kinds + 1,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=LENGTH + 1,
        tie_word_embeddings=True,
        bos_token_id=kinds,
        eos_token_id=None,
        **more,
    )
    return LlamaForCausalLM(made)


@functools.cache
def opened(folder: Path) -> nn.Module:
    """Return the model of a run."""
    return open_run(folder).load().eval()


def ours_drawing(trained: Path | None) -> SequenceModel:
    """Return the model that draws: a trained one, or one of random weights."""
    return ours() if trained is None else copy.deepcopy(opened(trained))


def theirs_drawing(trained: Path | None) -> LlamaForCausalLM:
    """Return the peer that draws, with the same weights where they are trained."""
    if trained is None:
        return theirs().eval()
    model = opened(trained)
    peer = theirs(model.alphabet.outputs)
    lend(model.network, peer)
    return peer.eval()


@torch.no_grad()
def lend(network: CausalTransformer, peer: LlamaForCausalLM) -> None:
    """Copy weights to the peer, and check that it says the same."""
    peer.model.embed_tokens.weight.copy_(network.embedding.weight)
    for block, layer in zip(network.blocks, peer.model.layers, strict=True):
        asking = block.attention.enter.weight.chunk(3)
        for name, weight in zip("qkv", asking, strict=True):
            getattr(layer.self_attn, f"{name}_proj").weight.copy_(weight)
        layer.self_attn.o_proj.weight.copy_(block.attention.leave.weight)
        gate, content = block.gated.enter.weight.chunk(2)
        layer.mlp.gate_proj.weight.copy_(gate)
        layer.mlp.up_proj.weight.copy_(content)
        layer.mlp.down_proj.weight.copy_(block.gated.leave.weight)
    x = torch.randint(KINDS, (2, LENGTH))
    gap = (peer.eval()(x).logits[..., : network.outputs] - network(x)).abs().max()
    assert gap < 1e-3, gap


def check_equal() -> None:
    """Both give the same logits with the same weights."""
    peer, model = theirs().eval(), ours()
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        sizes = model.network.sizes.model_copy(update={"tied": False, "eps": 1e-6})
        network = CausalTransformer(KINDS + 1, KINDS, LENGTH, sizes)
        ids = torch.arange(KINDS + 1)
        with torch.no_grad():
            fill(network, Weights(Path(folder)), ids, ids[:KINDS])
    x = torch.randint(KINDS, (2, LENGTH))
    with torch.no_grad():
        gap = (peer(x).logits[..., :KINDS] - network(x)).abs().max()
    print(f"largest difference of logits {float(gap):.1e}; parameters {count(model):,} and {count(peer):,}")
    assert gap < 1e-4


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def training_ours(compiled: bool) -> Callable[[], object]:
    model = ours()
    (stage,) = Config(**SIZES).stages(model)
    assert stage.objective is not None
    state, loss = State.fresh(model, stage.objective), stage.objective.phases[0].loss
    assert loss is not None
    if compiled:
        model.network.compile()
    x = torch.randint(KINDS, (BATCH, LENGTH))

    def step() -> None:
        noise = TrainNoise(generator("bench"), BATCH, 0, BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            total = loss({"x": x}, noise, Clock(1, 2)).total
        total.backward()
        for optimiser in state.optimisers.values():
            optimiser.step()
            optimiser.zero_grad()

    return step


def training_theirs(bf16: bool, compiled: bool, attention: str) -> Callable[[], object]:
    model = theirs(attn_implementation=attention).train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    call = torch.compile(model) if compiled else model
    x = torch.randint(KINDS, (BATCH, LENGTH))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            total = call(input_ids=x, labels=x).loss
        total.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def drawing_ours(rows: int, dtype: torch.dtype, compiled: bool, trained: Path | None) -> Callable[[], object]:
    model = ours_drawing(trained).to(dtype).eval()
    if compiled:
        compile_reading(model)

    def draw() -> Tensor:
        noise = SampleNoise(0, torch.arange(rows))
        drawn = stream(model, no_prompts(rows), noise, LENGTH - 1, Choice())
        return collect(model.alphabet, drawn, rows).values.values

    return draw


def drawing_helped(rows: int, trained: Path, helper: Path) -> Callable[[], object]:
    model, guessing = ours_drawing(trained).bfloat16().eval(), opened(helper)
    compile_reading(model, AHEAD + 1)

    def draw() -> Tensor:
        noise = SampleNoise(0, torch.arange(rows))
        drawn = speculate(model, guessing, no_prompts(rows), noise, LENGTH - 1, Choice())
        return collect(model.alphabet, drawn, rows).values.values

    return draw


def drawing_theirs(rows: int, dtype: torch.dtype, cache: str, trained: Path | None) -> Callable[[], object]:
    model = theirs_drawing(trained).to(dtype)
    first = torch.full((rows, 1), model.config.bos_token_id)
    settings = {"dynamic": {}, "lookup": {"prompt_lookup_num_tokens": 4}}
    more = settings.get(cache, {"cache_implementation": "static"})
    if cache == "static compiled":
        model.forward = torch.compile(model.forward)

    def draw() -> Tensor:
        with torch.no_grad():
            return model.generate(
                first, do_sample=True, top_k=0, max_new_tokens=LENGTH - 1, min_new_tokens=LENGTH - 1, **more
            )

    return draw


def training(quick: bool) -> Iterator[tuple[str, list[Variant]]]:
    yield (
        "genloom",
        [
            v
            for c in ((False,) if quick else (False, True))
            for v in attempt(f"bf16{' compiled' * c}", training_ours(c))
        ],
    )
    ways = [(b, c, a) for b in (False, True) for c in (False, True) for a in ("sdpa", "eager")]
    yield (
        "transformers",
        [
            v
            for b, c, a in ways
            if not (quick and c) and not (c and a == "eager")
            for v in attempt(f"{'bf16' if b else 'fp32'} {a}{' compiled' * c}", training_theirs(b, c, a))
        ],
    )


def drawing(
    rows: int, quick: bool, trained: Path | None, helper: Path | None
) -> Iterator[tuple[str, list[Variant]]]:
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    plain = [
        v
        for n, d in kinds.items()
        for c in ((False,) if quick else (False, True))
        for v in attempt(f"{n}{' compiled' * c}", drawing_ours(rows, d, c, trained))
    ]
    yield "genloom", plain
    if trained is not None and helper is not None:
        yield "with helper", attempt("bf16 compiled", drawing_helped(rows, trained, helper))
    ways = ["dynamic", "static", *["static compiled"] * (not quick), *["lookup"] * (rows == 1)]
    yield (
        "transformers",
        [
            v
            for n, d in kinds.items()
            for c in ways
            for v in attempt(f"{n} {c}", drawing_theirs(rows, d, c, trained))
        ],
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--trained", type=Path, help="a run of seq.gpt in these sizes")
    options.add_argument("--helper", type=Path, help="a run of seq.ngram on the same characters")
    options.add_argument("--drawing", action="store_true", help="no training")
    told = options.parse_args()
    torch.set_num_threads(told.threads)
    check_equal()
    if not told.drawing:
        with kept_memory():
            best = {name: fastest(name, found, 2) for name, found in training(told.quick)}
            compare(f"training step of {BATCH * LENGTH:,} characters", best, told.rounds)
    for rows in (1, BATCH):
        contenders = drawing(rows, told.quick, told.trained, told.helper)
        best = {name: fastest(name, found, 1) for name, found in contenders}
        compare(f"drawing {rows} x {LENGTH - 1} characters", best, min(told.rounds, 5))
    cached = 2 * SIZES["layers"] * LENGTH * SIZES["width"] * 4
    print(f"\ncache of keys and values: {cached / 2**20:.1f} MiB a text of {LENGTH} in float32")


if __name__ == "__main__":
    main()
