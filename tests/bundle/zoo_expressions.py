"""What the public model zoo's inference configurations compute, restated: kinds of expression, and who uses which.

Read in November 2026 from one stored version of each file. The expressions are ours, of the same form (same calls,
operators and syntax, other names and paths). `TARGETS` holds the components that the files name, those of MONAI by their
bare names. A bundle that names classes in its own `scripts/` needs --trust whatever its expressions are (`OWN_CODE`).
"""

from __future__ import annotations

KINDS = {
    "import": "import glob",
    "import own": "import scripts",
    "import from own": "from scripts import parts",
    "import from": "from pathlib import Path",
    "import as": "import numpy as np",
    "path": "@root + '/out'",
    "join": "os.path.join(@root, 'a', 'b')",
    "path choice": "@root + '/models/' + @file",
    "choice": "[1.0, 1.0, 1.0] if @options#fine else [2.0, 2.0, 2.0]",
    "text choice": "'fine.pt' if @options#fine else 'coarse.pt'",
    "reference": "@steps ",
    "constant": "False",
    "not": "(not @flag)",
    "device": "torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "dtype": "numpy.float32",
    "torch dtype": "torch.float32",
    "to device": "@net_def.to(@where)",
    "files": "list(sorted(glob.glob(@folder + '/*.nii.gz')))",
    "some files": "list(sorted(glob.glob(@folder + '/in/*.png')))[:1]",
    "joined files": "list(sorted(glob.glob(os.path.join(@folder, 'a', '*', '*.jpg'))))",
    "plain files": "list(glob.glob(@folder + '/*/x.nii.gz'))",
    "each file": "[{'image': path} for path in glob.glob(os.path.join(@folder, '*.png'))]",
    "each": "[{'image': item} for item in @items]",
    "pairs": "[{'image': a, 'label': b} for a, b in zip(@first, @second)]",
    "triples": "[{'p': a, 'q': b, 'r': c} for a, b, c in zip(glob.glob(@f + '/1'), glob.glob(@f + '/2'), @third)]",
    "merged": "[{'label': b, **a} for a, b in zip(@first, @second)]",
    "clicks": "[{'image': a, 'points': json.loads(pathlib.Path(b).read_text())} for a, b in zip(@first, @second)]",
    "table": "list(@folder + pd.read_csv(@folder + 'list.csv').column)",
    "decathlon": "monai.data.load_decathlon_datalist(@file, data_list_key='testing', base_dir=@folder)",
    "decathlon more": "monai.data.load_decathlon_datalist(@f, is_segmentation=True, data_list_key='v', base_dir=@d)",
    "json file": "json.loads(pathlib.Path(@file).read_text())",
    "json chain": "@meta['a']['b']['c']",
    "open": "open(@file, 'r', encoding='utf8')",
    "json load": "json.load(@handle)",
    "close": "@handle.close()",
    "length": "len(@names)",
    "length sum": "len(@names) + @extra",
    "list sum": "@first + @second + @third",
    "list of one": "[@entry]",
    "literal dict": "{'image': '/a/b.nii.gz', 'prompt': [3]}",
    "first": "@items[0]",
    "ranges": "list(range(3, 7)) + list(range(9, 12)) + [20, 22]",
    "set difference": "list(set([i + 1 for i in range(12)]) - set([2, 5, 7]))",
    "overlap": "1.0 - float(@small) / float(@large)",
    "padding": "((@large - @small) // 2,) * 4",
    "quarter": "@size[0]//4",
    "determinism": "monai.utils.set_determinism(seed=12)",
    "determinism by id": "monai.utils.set_determinism(seed=@seed)",
    "switch": "setattr(torch.backends.cudnn, 'benchmark', True)",
    "search path": "sys.path.append(@root)",
    "call component": "@loader(@engine)",
    "call choice": "@loader(@engine) if @flag else None",
    "call with dict": "lambda batch: [@steps({**item['pred'], 'image': item['image']}) for item in batch]",
    "each meta": "lambda batch: [item['image_meta_dict'] for item in batch]",
    "run": "@engine.run()",
    "lambda none": "lambda x: None",
    "lambda slice": "lambda x : x[1:]",
    "lambda where": "lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, 0))",
    "lambda nan": "lambda x: torch.nan_to_num(x, nan=255)",
    "lambda path": "lambda x: os.path.join(@folder, 'images', x + '.tif')",
    "lambda progress": (
        'lambda e: print(f\'{e.state.batch["image"].meta["name"][0]} {e.state.iteration}/{e.state.epoch_length}\') '
        "if e.state.iteration % 10 == 0 else None"
    ),
    "lambda batch": "lambda batch, device, other: (batch.to(device), ())",
    "lambda any": "lambda batch, *_, **__: (batch.to(@where), None, (), {})",
    "random": "[torch.rand(@size) for i in range(@count)]",
    "noise": "torch.randn([1] + @shape).to(@where)",
    "tensor": "torch.tensor([[@a, @b]]).to(@where).unsqueeze(1)",
    "from engine": "monai.handlers.from_engine(['pred'])",
    "no collation": "monai.data.utils.no_collation",
    "load": "torch.load(@file)",
    "load any": "torch.load(@file, weights_only=False)",
    "load into": "@net_def.load_state_dict(torch.load(@file))",
    "load part": "@net.load_state_dict(@content['part'], strict=True)",
    "load part to": "@content['factor'].to(@where)",
    "load choice": "@net.load_old_state_dict if bool(@old) else @net.load_state_dict",
    "copy state": "monai.networks.utils.copy_model_state(@net, @other.state_dict())",
    "call by id": "@function(torch.load(@file))",
    "make folder": "Path(@folder).mkdir(exist_ok=True)",
    "time": "datetime.now().strftime('%Y%m%d')",
    "time and values": "datetime.now().strftime('%H') + '_' + str(@a) + '_' + str(@b)",
    "timesteps": "@scheduler.set_timesteps(num_inference_steps=50)",
    "sample": "@sampler.sampling_fn(@noise, @first, @second)",
    "save sample": "@saver(@sample[0][0])",
    "image array": "@image[0,0].cpu().numpy().transpose(1, 0)[::-1, ::-1]",
    "image file": "Image.fromarray(draw(@array), 'RGB')",
    "save picture": "@picture.save(@folder + '/a.png')",
    "net by function": "monai.networks.nets.vista3d132(in_channels=@channels)",
    "backbone": "monai.networks.nets.resnet.resnet50(spatial_dims=3, n_input_channels=1, conv1_t_stride=[2, 2, 1])",
    "features": "monai.apps.detection.networks.retinanet_network.resnet_fpn_feature_extractor(@b, 3, False, [1, 2], None)",
    "detector keys": "@detector.set_target_keys(box_key='box', label_key='label')",
    "detector boxes": "@detector.set_box_selector_parameters(score_thresh=0.1, nms_thresh=0.2)",
    "detector window": "@detector.set_sliding_window_inferer(roi_size=@size, overlap=0.25, mode='constant')",
    "compile": "mn.trt_wrap(@net, @file, args=@options) if @fast else @net",
    "deep copy": "copy.deepcopy(@steps)",
    "own data": "@data.create_dataset('Test')[0]",
    "register own": "monai.data.register_writer('json', scripts.Writer)",
    "call own": "scripts.sample.check(@a, @b)",
    "samples": "@sampler.sample_multiple_images(@count)",
}

_USUAL = ["import", "path", "device", "to device", "files", "each", "run"]

ZOO = {
    "brain_image_synthesis_latent_diffusion_model": [
        "import", "import from", "path", "make folder", "device", "tensor", "time and values", "load choice",
        "call by id", "to device", "noise", "timesteps", "sample", "save sample",
    ],
    "brats_mri_axial_slices_generative_diffusion": [
        "import", "import from", "import from own", "path", "make folder", "device", "time", "load into", "to device",
        "noise", "timesteps", "sample", "reference", "image array", "image file", "save picture",
    ],
    "brats_mri_generative_diffusion": [
        "import", "import from", "path", "make folder", "device", "time", "load into", "to device", "noise",
        "timesteps", "sample", "reference", "save sample",
    ],
    "brats_mri_segmentation": [
        "import", "path", "decathlon", "device", "to device", "lambda where", "switch", "run",
    ],
    "breast_density_classification": [
        "import", "path", "own data", "pairs", "device", "to device", "lambda none", "from engine", "switch", "run",
    ],
    "cell_seg_foundation": [
        "import as", "path", "literal dict", "device", "torch dtype", "to device", "reference", "list of one",
        "determinism", "call component", "run",
    ],
    "CoronSegmentator": ["import", "path", "files", "device", "first", "reference", "run"],
    "endoscopic_inbody_classification": [
        "import", "path", "open", "json load", "close", "device", "to device", "torch dtype", "determinism", "call choice",
        "run",
    ],
    "endoscopic_tool_segmentation": [
        "import", "path", "joined files", "device", "to device", "each", "lambda slice", "determinism", "run",
    ],
    "inbody_outbody_classification": [
        "import", "path", "open", "json load", "close", "device", "to device", "torch dtype", "switch", "run",
    ],
    "lung_nodule_ct_detection": [
        "not", "import", "path", "decathlon more", "device", "backbone", "features", "to device", "detector keys",
        "detector boxes", "detector window", "reference", "no collation", "each meta", "call with dict", "switch", "run",
    ],
    "maisi_ct_generative": [
        "import", "import from", "import own", "path", "make folder", "device", "quarter", "to device", "load",
        "load any", "load part", "load part to", "copy state", "call own", "determinism by id", "samples",
    ],
    "mednist_gan": ["import", "device", "path", "to device", "random", "dtype", "lambda any", "run"],
    "pathology_nuclei_classification": [
        "import", "import as", "path", "some files", "pairs", "device", "to device", "constant", "compile", "reference",
        "determinism", "import own", "register own", "run",
    ],
    "pathology_nuclei_segmentation_classification": [
        "import", "join", "device", "to device", "each file", "overlap", "padding", "switch", "run",
    ],
    "pathology_nuclick_annotation": [
        "import", "path", "dtype", "some files", "clicks", "device", "to device", "search path", "determinism",
        "call component", "run",
    ],
    "pathology_tumor_detection": [
        "import", "join", "device", "to device", "lambda path", "path", "lambda progress", "lambda none", "switch", "run",
    ],
    "prostate_mri_anatomy": ["import", "path", "table", "device", "to device", "each", "switch", "run"],
    "renalStructures_CECT_segmentation": [
        "import", "path", "triples", "plain files", "device", "to device", "merged", "reference", "switch", "run",
    ],
    "renalStructures_UNEST_segmentation": [*_USUAL, "switch"],
    "spleen_ct_segmentation": [*_USUAL, "dtype", "determinism", "call component"],
    "spleen_deepedit_annotation": [*_USUAL, "length sum", "length", "list sum", "determinism"],
    "swin_unetr_btcv_segmentation": [*_USUAL, "determinism"],
    "valve_landmarks": [
        "import", "import from own", "device", "path", "files", "to device", "lambda batch", "run",
    ],
    "ventricular_short_axis_3label": _USUAL,
    "vista2d": [
        "import as", "path", "literal dict", "device", "torch dtype", "to device", "reference", "list of one",
        "determinism", "call component", "run",
    ],
    "vista3d": [
        "import", "import own", "import as", "path", "dtype", "literal dict", "set difference", "json file",
        "json chain", "ranges", "device", "net by function", "to device", "torch dtype", "reference", "list of one",
        "deep copy", "lambda nan", "determinism", "call component", "run",
    ],
    "wholeBody_ct_segmentation": [
        *_USUAL, "dtype", "choice", "text choice", "path choice", "switch", "call component",
    ],
    "wholeBrainSeg_Large_UNEST_segmentation": [*_USUAL, "switch"],
}  # fmt: skip

# Name classes or functions in the bundle's own scripts/ as targets: nobody can open these without running their code.
OWN_CODE = {
    "brain_image_synthesis_latent_diffusion_model",
    "brats_mri_axial_slices_generative_diffusion",
    "brats_mri_generative_diffusion",
    "breast_density_classification",
    "cell_seg_foundation",
    "CoronSegmentator",
    "lung_nodule_ct_detection",
    "maisi_ct_generative",
    "renalStructures_CECT_segmentation",
    "renalStructures_UNEST_segmentation",
    "spleen_deepedit_annotation",
    "valve_landmarks",
    "vista2d",
    "vista3d",
    "wholeBrainSeg_Large_UNEST_segmentation",
}

_EVALUATOR = ["Compose", "Dataset", "DataLoader", "CheckpointLoader", "SupervisedEvaluator"]
_USUAL_TARGETS = [*_EVALUATOR, "LoadImaged", "EnsureTyped", "Activationsd", "AsDiscreted", "SaveImaged"]
_VOLUMES = [*_USUAL_TARGETS, "EnsureChannelFirstd", "Orientationd", "Spacingd", "SlidingWindowInferer", "Invertd"]
_CLASSIFIER = [
    *_EVALUATOR, "SEResNet50", "LoadImaged", "EnsureTyped", "AsDiscreted", "Resized", "CastToTyped", "NormalizeIntensityd",
    "SimpleInferer", "StatsHandler",
]  # fmt: skip

# What the files that need none of their own code name as components; a dictionary where an argument matters too.
TARGETS: dict[str, list[str | dict[str, object]]] = {
    "brats_mri_segmentation": [
        *_EVALUATOR, "SegResNet", "LoadImaged", "NormalizeIntensityd", "SlidingWindowInferer", "Activationsd", "Invertd",
        "AsDiscreted", "Lambdad", "SaveImaged", "StatsHandler",
    ],
    "endoscopic_inbody_classification": [*_CLASSIFIER, "EnsureChannelFirstd", "SaveClassificationd"],
    "endoscopic_tool_segmentation": [
        *_EVALUATOR, "FlexibleUNet", "LoadImaged", "EnsureChannelFirstd", "Resized", "ScaleIntensityd", "SimpleInferer",
        "Invertd", "AsDiscreted", "Lambdad", "SaveImaged", "StatsHandler",
    ],
    "inbody_outbody_classification": [*_CLASSIFIER, "ToTensord", "AsChannelFirstd"],
    "mednist_gan": [*_EVALUATOR, "Generator", "SimpleInferer", "Activationsd", "SaveImaged"],
    "pathology_nuclei_classification": [
        *_EVALUATOR, "DenseNet121", "LoadImaged", "EnsureChannelFirstd", "ScaleIntensityRanged", "AddLabelAsGuidanced",
        "SimpleInferer", "Activationsd", "SaveImaged", "StatsHandler",
    ],
    "pathology_nuclei_segmentation_classification": [
        *_EVALUATOR, "HoVerNet", "LoadImaged", "EnsureChannelFirstd", "CastToTyped", "ScaleIntensityRanged",
        "SlidingWindowHoVerNetInferer", "FlattenSubKeysd", "HoVerNetInstanceMapPostProcessingd",
        "HoVerNetNuclearTypePostProcessingd", "FromMetaTensord", "SaveImaged",
    ],
    "pathology_nuclick_annotation": [
        *_EVALUATOR, "BasicUNet", "LoadImaged", "EnsureChannelFirstd", "ScaleIntensityRanged", "AddClickSignalsd",
        "SqueezeDimd", "SimpleInferer", "Activationsd", "AsDiscreted", "KeepLargestConnectedComponentd", "SaveImaged",
        "StatsHandler",
    ],
    "pathology_tumor_detection": [
        *_EVALUATOR, {"_target_": "TorchVisionFCModel", "pretrained": True}, "CastToTyped", "ScaleIntensityRanged",
        "ToTensord", "CSVDataset", "Lambdad", "MaskedPatchWSIDataset", "SimpleInferer", "EnsureTyped", "Activationsd",
        "ToNumpyd", "StatsHandler", "monai.handlers.ProbMapProducer",
    ],
    "prostate_mri_anatomy": [
        *_VOLUMES, "UNet", "ScaleIntensityd", "NormalizeIntensityd", "KeepLargestConnectedComponentd", "StatsHandler",
        "torch.device",
    ],
    "spleen_ct_segmentation": [*_VOLUMES, "UNet", "ScaleIntensityRanged", "StatsHandler"],
    "swin_unetr_btcv_segmentation": [
        *_VOLUMES, "SwinUNETR", "ScaleIntensityRanged", "StatsHandler", {"_target_": "LoadImaged", "reader": "ITKReader"},
    ],
    "ventricular_short_axis_3label": [
        *_USUAL_TARGETS, "UNet", "EnsureChannelFirstd", "ScaleIntensityd", "SliceInferer", "Invertd",
    ],
    "wholeBody_ct_segmentation": [*_VOLUMES, "SegResNet", "NormalizeIntensityd", "ScaleIntensityd", "StatsHandler"],
}  # fmt: skip
