"""At most eight parameters, few `Any`, functions that fit a screen. What is over stands here by name; the lists only shrink."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.architecture.test_floors import ROOT, SOURCES

MOST_PARAMETERS = 8
MOST_LINES = 60
ANY = 324  # parameters and results that are typed `Any` and nothing else; lower it whenever some are gone
OVER_A_SCREEN = 0.01  # share of the functions

# names and arguments of another library, outside of `compat`
IMITATES = {
    "medseg/inference/windows/sliding_window.py:SlidingWindowInferer.__init__": "monai.inferers.SlidingWindowInferer",
    "kernels/medseg_kernels/selective_scan/api.py:selective_scan_fn": "mamba_ssm.ops.selective_scan_interface",
}
# function -> how many parameters it has; a record of settings takes a name off this list
LONG: dict[str, int] = {
    "kernels/medseg_kernels/convolved_scan/op.py:convolved_scan": 12,
    "kernels/medseg_kernels/gated_linear_recurrence/api.py:gated_linear_recurrence": 12,
    "kernels/medseg_kernels/gated_linear_recurrence/chunked.py:chunkwise": 11,
    "kernels/medseg_kernels/gated_linear_recurrence/chunked_backward.py:chunkwise_backward": 13,
    "kernels/medseg_kernels/gated_linear_recurrence/cpu.py:Call.__init__": 10,
    "kernels/medseg_kernels/gated_linear_recurrence/cpu.py:forward": 10,
    "kernels/medseg_kernels/gated_linear_recurrence/cpu.py:starts_of_segments": 11,
    "kernels/medseg_kernels/gated_linear_recurrence/cpu.py:backward": 12,
    "kernels/medseg_kernels/gated_linear_recurrence/members.py:retention": 10,
    "kernels/medseg_kernels/gated_linear_recurrence/members.py:ssd": 12,
    "kernels/medseg_kernels/gated_linear_recurrence/members.py:gla": 10,
    "kernels/medseg_kernels/gated_linear_recurrence/members.py:delta_rule": 10,
    "kernels/medseg_kernels/gated_linear_recurrence/members.py:gated_delta_rule": 11,
    "kernels/medseg_kernels/gated_linear_recurrence/mlstm.py:mlstm": 12,
    "kernels/medseg_kernels/gated_linear_recurrence/mlstm.py:mlstm_once": 12,
    "kernels/medseg_kernels/gated_linear_recurrence/op.py:_forward": 12,
    "kernels/medseg_kernels/gated_linear_recurrence/op.py:_gradients": 14,
    "kernels/medseg_kernels/gated_linear_recurrence/run.py:run_visits": 13,
    "kernels/medseg_kernels/gated_linear_recurrence/run.py:run_once": 12,
    "kernels/medseg_kernels/gated_linear_recurrence/run.py:portable": 11,
    "kernels/medseg_kernels/gated_linear_recurrence/run.py:eager": 12,
    "kernels/medseg_kernels/gated_linear_recurrence/triton_launch.py:Call.__init__": 9,
    "kernels/medseg_kernels/gated_linear_recurrence/triton_launch.py:forward": 10,
    "kernels/medseg_kernels/gated_linear_recurrence/triton_launch.py:backward": 12,
    "kernels/medseg_kernels/selective_scan/api.py:selective_scan_with_state": 16,
    "kernels/medseg_kernels/selective_scan/api.py:selective_scan_scriptable": 16,
    "kernels/medseg_kernels/selective_scan/api.py:selective_scan": 17,
    "kernels/medseg_kernels/selective_scan/checks.py:check_call": 14,
    "kernels/medseg_kernels/selective_scan/chunked.py:_scan_head": 10,
    "kernels/medseg_kernels/selective_scan/chunked.py:chunked_scan": 15,
    "kernels/medseg_kernels/selective_scan/op.py:_forward": 16,
    "kernels/medseg_kernels/selective_scan/op.py:_gradients": 18,
    "kernels/medseg_kernels/selective_scan/reference.py:reference_scan": 14,
    "kernels/medseg_kernels/short_conv/api.py:_eager": 9,
    "kernels/medseg_kernels/short_conv/op.py:_forward": 9,
    "kernels/medseg_kernels/short_conv/op.py:_gradients": 10,
    "kernels/medseg_kernels/stitch/reference.py:stitch_labels": 9,
    "kernels/medseg_kernels/warp/cpu.py:warp": 9,
    "kernels/medseg_kernels/warp/op.py:warp_patch": 10,
    "kernels/medseg_kernels/window_attention/api.py:window_attention": 18,
    "kernels/medseg_kernels/window_attention/api.py:window_attention_with_carriers": 19,
    "kernels/medseg_kernels/window_attention/api.py:_over_groups": 15,
    "kernels/medseg_kernels/window_attention/api.py:_one_geometry": 16,
    "kernels/medseg_kernels/window_attention/reference.py:attend": 19,
    "medseg/networks/build.py:build_network": 15,
    "medseg/networks/mixers/selective_scan.py:SelectiveScan.__init__": 11,
    "medseg/training/case_datasets.py:CaseDataset.__init__": 9,
    "medseg/training/case_datasets.py:TrainingDataset.__init__": 9,
    "medseg/training/diffusion_module.py:DiffusionModule.__init__": 10,
    "medseg/training/fit.py:run_fit": 9,
    "medseg/training/module.py:SegmentationModule.__init__": 14,
    "medseg/training/trainer.py:make_trainer": 17,
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Found:
    """A function of the tree: `place` is path:Class.name."""

    place: str
    node: Function
    excused: bool

    @property
    def parameters(self) -> list[ast.arg]:
        words = self.node.args
        given = [*words.posonlyargs, *words.args, *words.kwonlyargs]
        return [arg for arg in given if arg.arg not in ("self", "cls")]

    @property
    def annotations(self) -> list[ast.expr | None]:
        words = self.node.args
        rest = [arg for arg in (words.vararg, words.kwarg) if arg is not None]
        return [*(arg.annotation for arg in [*self.parameters, *rest]), self.node.returns]


def excused(path: Path, node: Function, owner: ast.AST) -> bool:
    """Whether others decide how many parameters there are: torch's registry, triton, autograd, the library whose name it has."""
    decorators = " ".join(ast.unparse(one) for one in node.decorator_list)
    registered = any(word in decorators for word in ("triton.jit", "custom_op", "register_fake"))
    autograd = isinstance(owner, ast.ClassDef) and any("Function" in ast.unparse(base) for base in owner.bases)
    return registered or autograd or "compat" in path.parts


def functions(path: Path) -> Iterator[Found]:
    def below(node: ast.AST, names: tuple[str, ...]) -> Iterator[Found]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                place = f"{path.relative_to(ROOT).as_posix()}:{'.'.join((*names, child.name))}"
                yield Found(place, child, excused(path, child, node) or place in IMITATES)
            inner = (*names, child.name) if isinstance(child, Function | ast.ClassDef) else names
            yield from below(child, inner)

    return below(ast.parse(path.read_text(encoding="utf-8")), ())


FUNCTIONS = [found for path in SOURCES for found in functions(path)]


def test_more_than_eight_parameters_only_where_the_list_says_so() -> None:
    long = {f.place: len(f.parameters) for f in FUNCTIONS if len(f.parameters) > MOST_PARAMETERS and not f.excused}
    assert set(IMITATES) <= {found.place for found in FUNCTIONS}
    new = {place: count for place, count in long.items() if count > LONG.get(place, 0)}
    assert not new, f"make a record of what belongs together: {new}"
    assert long == LONG, f"shorter now, so shorten LONG: {set(LONG.items()) - set(long.items())}"


def test_any_in_signatures_only_falls() -> None:
    places = [
        found.place
        for found in FUNCTIONS
        for annotation in found.annotations
        if isinstance(annotation, ast.Name) and annotation.id == "Any"
    ]
    assert len(places) <= ANY, f"{len(places)} times Any, {ANY} allowed: say what it is, or object\n" + "\n".join(
        places
    )


def test_functions_fit_a_screen() -> None:
    lines = {f.place: (f.node.end_lineno or 0) - f.node.lineno + 1 for f in FUNCTIONS}
    over = {place: count for place, count in lines.items() if count > MOST_LINES}
    assert len(over) <= OVER_A_SCREEN * len(FUNCTIONS), over


def test_the_count_sees_methods_keywords_and_what_is_excused() -> None:
    tree = ast.parse(
        "class A:\n"
        "    def __init__(self, a, b, c, d, *, e, f, g, h, i: Any, **rest: Any) -> Any: ...\n"
        "@triton.jit\n"
        "def kernel(a, b): ...\n"
    )
    method, kernel = tree.body[0].body[0], tree.body[1]  # type: ignore[attr-defined]
    found = Found("x:A.__init__", method, excused(ROOT / "x.py", method, tree.body[0]))
    assert (len(found.parameters), found.excused) == (9, False)
    assert sum(isinstance(one, ast.Name) for one in found.annotations) == 3
    assert excused(ROOT / "x.py", kernel, tree)
    assert excused(ROOT / "kernels" / "compat" / "x.py", method, tree.body[0])
