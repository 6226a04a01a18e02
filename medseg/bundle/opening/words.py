"""The words of the expression grammar: every name, call, method and attribute an untrusted bundle may use.

A written list, longest-lived part of the safe opening: a word is added by a person who has looked at what it can do.
Left side: the full name as a bundle writes it (after resolving its import aliases). Right side: where it comes from,
`module:attribute`, imported only when it is used. Reading and listing files is allowed, writing and running is not.
"""

from __future__ import annotations

import ast

# Names that MONAI makes available without an import statement.
DEFAULT_ALIASES = {"np": "numpy"}

# Modules that `$import` may name. The statement only makes a local name known; nothing is imported by it, so `scripts`,
# where the model zoo keeps a bundle's own Python, may be named too: it is the use of such a name that is refused.
MODULES = frozenset(
    {
        "copy", "pandas", "PIL", "scripts", "torchvision",
        "glob", "os", "os.path", "pathlib", "json", "math", "random", "sys", "datetime", "functools", "itertools", "re",
        "numpy", "torch", "torch.nn", "torch.distributed", "torch.nn.functional", "ignite", "ignite.engine",
        "ignite.metrics", "nibabel", "monai", "monai.apps", "monai.bundle", "monai.data", "monai.data.utils",
        "monai.engines", "monai.handlers", "monai.inferers", "monai.losses", "monai.metrics", "monai.networks",
        "monai.networks.nets", "monai.transforms", "monai.utils", "medseg",
    }
)  # fmt: skip

# Values that are no calls.
VALUES = {
    **{f"torch.{name}": f"torch:{name}" for name in (
        "float16", "bfloat16", "float32", "float64", "half", "float", "double", "uint8", "int8", "int16", "int32",
        "int64", "long", "bool",
    )},
    **{f"numpy.{name}": f"numpy:{name}" for name in (
        "float16", "float32", "float64", "uint8", "uint16", "uint32", "int8", "int16", "int32", "int64", "inf", "nan",
        "pi",
    )},
    "os.sep": "os:sep",
    "math.pi": "math:pi",
    "math.inf": "math:inf",
    "monai.__version__": "monai:__version__",
    "torch.__version__": "torch:__version__",
}  # fmt: skip

# The only attributes that may be set: speed switches of torch.
SETTABLE = frozenset(
    {
        ("torch.backends.cudnn", "benchmark"),
        ("torch.backends.cudnn", "deterministic"),
        ("torch.backends.cudnn", "allow_tf32"),
        ("torch.backends.cuda.matmul", "allow_tf32"),
    }
)

# Functions and classes that may be called, or passed on as they are.
CALLS = {
    **{name: f"builtins:{name}" for name in (
        "abs", "all", "any", "bool", "dict", "enumerate", "float", "int", "len", "list", "max", "min", "print", "range",
        "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip",
    )},
    "open": "medseg.bundle.opening.stand_ins:open_text",
    "json.load": "json:load",
    "json.loads": "json:loads",
    "copy.copy": "copy:copy",
    "copy.deepcopy": "copy:deepcopy",
    "datetime.datetime.now": "medseg.bundle.opening.stand_ins:now",
    "sys.path.append": "medseg.bundle.opening.stand_ins:nothing",
    "sys.path.insert": "medseg.bundle.opening.stand_ins:nothing",
    "os.makedirs": "medseg.bundle.opening.stand_ins:nothing",
    "glob.glob": "glob:glob",
    "glob.iglob": "glob:iglob",
    "os.path.join": "os.path:join",
    "os.path.exists": "os.path:exists",
    "os.path.isfile": "os.path:isfile",
    "os.path.isdir": "os.path:isdir",
    "os.path.abspath": "os.path:abspath",
    "os.path.basename": "os.path:basename",
    "os.path.dirname": "os.path:dirname",
    "os.path.splitext": "os.path:splitext",
    "os.listdir": "os:listdir",
    "os.cpu_count": "os:cpu_count",
    "os.getcwd": "os:getcwd",
    "pathlib.Path": "pathlib:Path",
    **{f"math.{name}": f"math:{name}" for name in ("ceil", "floor", "sqrt", "log", "log2", "exp", "prod")},
    "torch.device": "torch:device",
    "torch.cuda.is_available": "torch.cuda:is_available",
    "torch.cuda.device_count": "torch.cuda:device_count",
    "torch.distributed.is_available": "torch.distributed:is_available",
    "torch.distributed.is_initialized": "torch.distributed:is_initialized",
    "torch.distributed.get_rank": "torch.distributed:get_rank",
    "torch.distributed.get_world_size": "torch.distributed:get_world_size",
    # never torch's own: tensors only, whatever the bundle asks for
    "torch.load": "medseg.bundle.opening.stand_ins:load_tensors",
    "torch.manual_seed": "torch:manual_seed",
    **{f"torch.{name}": f"torch:{name}" for name in (
        "argmax", "cat", "clamp", "log", "max", "mean", "min", "nan_to_num", "ones", "ones_like", "rand", "randn", "round", "sigmoid",
        "softmax", "sqrt", "squeeze", "stack", "sum", "tanh", "tensor", "as_tensor", "unsqueeze", "where", "zeros",
        "zeros_like",
    )},
    "torch.nn.Sigmoid": "torch.nn:Sigmoid",
    "torch.nn.Softmax": "torch.nn:Softmax",
    **{f"numpy.{name}": f"numpy:{name}" for name in (
        "abs", "arange", "argmax", "array", "asarray", "ceil", "clip", "concatenate", "exp", "floor", "linspace", "log",
        "max", "maximum", "mean", "min", "minimum", "ones", "prod", "round", "sqrt", "squeeze", "stack", "sum",
        "transpose", "where", "zeros",
    )},
    "monai.utils.set_determinism": "monai.utils:set_determinism",
    "monai.utils.path_to_uri": "monai.utils:path_to_uri",
    "monai.utils.path_to_sqlite_uri": "monai.utils:path_to_sqlite_uri",
    "monai.utils.ensure_tuple": "monai.utils:ensure_tuple",
    "monai.utils.first": "monai.utils:first",
    "monai.handlers.from_engine": "monai.handlers:from_engine",
    "monai.handlers.utils.from_engine": "monai.handlers:from_engine",
    "monai.handlers.ignore_data": "monai.handlers:ignore_data",
    "monai.data.load_decathlon_datalist": "monai.data:load_decathlon_datalist",
    "monai.data.decathlon_datalist.load_decathlon_datalist": "monai.data:load_decathlon_datalist",
    "monai.data.partition_dataset": "monai.data:partition_dataset",
    "monai.data.utils.no_collation": "monai.data.utils:no_collation",
    "monai.data.utils.list_data_collate": "monai.data.utils:list_data_collate",
    "monai.data.list_data_collate": "monai.data.utils:list_data_collate",
    "monai.data.utils.pad_list_data_collate": "monai.data.utils:pad_list_data_collate",
    "monai.data.pad_list_data_collate": "monai.data.utils:pad_list_data_collate",
    "monai.data.decollate_batch": "monai.data.utils:decollate_batch",
    "monai.data.utils.decollate_batch": "monai.data.utils:decollate_batch",
    "monai.networks.utils.copy_model_state": "monai.networks.utils:copy_model_state",
    "monai.networks.nets.vista3d132": "monai.networks.nets:vista3d132",
    # a speed-up that compiles the network with TensorRT and writes files: the network itself will do
    "monai.networks.trt_wrap": "medseg.bundle.opening.stand_ins:first_argument",
    "monai.networks.utils.one_hot": "monai.networks.utils:one_hot",
    "monai.networks.one_hot": "monai.networks.utils:one_hot",
    **{f"monai.networks.nets.{prefix}{name}": f"monai.networks.nets:{name}" for prefix in ("", "resnet.")
       for name in ("resnet10", "resnet18", "resnet34", "resnet50", "resnet101")},
    "monai.apps.detection.networks.retinanet_network.resnet_fpn_feature_extractor":
        "monai.apps.detection.networks.retinanet_network:resnet_fpn_feature_extractor",
}  # fmt: skip

# Methods of values. The object's type decides what they do; none of them writes a file or starts a program on the types
# that a bundle can build from the allowed targets. Text formatting (`format`) is missing on purpose: it reads attributes.
METHODS = frozenset(
    {
        "to", "run", "eval", "train", "cuda", "cpu", "half", "float", "double", "long", "parameters", "state_dict",
        "load_state_dict", "keys", "values", "items", "get", "split", "rsplit", "startswith", "endswith", "lower",
        "upper", "strip", "lstrip", "rstrip", "replace", "join", "index", "count", "item", "tolist", "numpy", "detach",
        "size", "dim", "shape", "permute", "squeeze", "unsqueeze", "flatten", "reshape", "repeat", "clone", "sum",
        "mean", "max", "min", "argmax", "astype", "copy", "glob", "exists", "is_file", "is_dir", "resolve",
        "set_target_keys", "set_box_selector_parameters", "set_sliding_window_inferer", "set_timesteps",
        "mkdir", "read_text", "read", "close", "strftime", "transpose", "load_old_state_dict",
        # of classes in a bundle's own scripts, which cannot be built without --trust in the first place
        "sampling_fn", "create_dataset", "sample_multiple_images",
    }
)  # fmt: skip

# Methods that are accepted and not done: whoever writes an output makes its folder.
IGNORED_METHODS = frozenset({"mkdir"})

# Attributes of values that may be read.
ATTRIBUTES = frozenset(
    {"shape", "ndim", "dtype", "device", "meta", "affine", "name", "stem", "suffix", "parent", "parts", "data", "T",
     "pixdim", "image", "label", "pred", "state", "batch", "output", "metrics", "iteration", "epoch", "epoch_length",
     "max_epochs", "load_state_dict", "load_old_state_dict"}
)  # fmt: skip

# Syntax without rules of its own; everything with rules has a method in grammar._Checker.
PLAIN_NODES = (
    ast.Subscript, ast.Slice, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.IfExp, ast.BoolOp, ast.And, ast.Or,
    ast.UnaryOp, ast.UAdd, ast.USub, ast.Not, ast.Invert, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt,
    ast.GtE, ast.Is, ast.IsNot, ast.In, ast.NotIn, ast.JoinedStr, ast.Starred, ast.Load,
)  # fmt: skip
