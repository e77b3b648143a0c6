from pathlib import Path

from setuptools import setup

# The folders at the root are installed as sub-packages of `unimp`. The list is explicit: `find_packages()` would
# install them a second time under their generic names.
PACKAGES = {
    "unimp": "unimp",
    "unimp.modeling_unimp": "modeling_unimp",
    "unimp.processing": "processing",
    "unimp.processing.loaders": "processing/loaders",
    "unimp.training": "training",
    "unimp.spaces_demo": "spaces_demo",
}

setup(
    name="unimp",
    version="0.1.0",
    description="Unified multi-modal personalisation: recommend, search, rate, explain, select from pictures and text",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={"unimp.training": ["accelerate/*.yaml"]},
    install_requires=[
        "accelerate>=1.15",
        "datasets>=5.2",
        "diffusers>=0.42",
        "filelock>=3.10",
        "huggingface_hub>=2.4",
        "matplotlib>=3.11",
        "numpy>=2.0",
        "pandas>=3.0",
        "peft>=0.21",
        "pillow>=12.0",
        "pyarrow>=20.0",
        "pyyaml>=6.0",
        "rich>=14.0",
        "rouge-score>=0.1.2",
        "sacrebleu>=2.6",
        "safetensors>=0.8",
        "scikit-learn>=1.6",
        "scipy>=1.15",
        "tokenizers>=0.23",
        "torch>=2.13",
        "torchmetrics>=1.9",
        "tqdm>=4.67",
        "transformers>=5.23,<6",
        "trl>=1.16,<2",
    ],
    extras_require={"demo": ["gradio[mcp]>=6.31,<7"]},
    entry_points={"console_scripts": ["unimp = unimp.cli:main"]},
)
