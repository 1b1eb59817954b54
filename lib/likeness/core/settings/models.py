"""The settings: a frozen model a concern, and `Settings` of all of them."""

import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

Rate = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Frozen):
    """Where photos and their catalogue come from."""

    uri: str = Field("", description="folder, .tar or .parquet of photos")
    catalogue: str = Field("", description="CSV, JSON lines or Parquet; default: catalogue.* in the source")
    mode: Literal["delta", "full"] = Field(
        "delta", description="delta: a product that is absent stays; full: it is withdrawn"
    )


class Limits(_Frozen):
    """What one photo may cost."""

    max_bytes: Count = Field(30_000_000, description="a longer file is rejected")
    max_pixels: Count = Field(100_000_000, description="a photo of more pixels is rejected unopened")
    decode_timeout_s: float = Field(30.0, gt=0, le=86_400, description="a photo that takes longer to decode fails")


class Gates(_Frozen):
    """What stops a run before it publishes (exit code 3)."""

    max_failure_rate: Rate = Field(0.05, description="share of the photos that may stand failed")
    max_withdraw_rate: Rate = Field(0.2, description="share of the active listings that a run may withdraw")
    min_recall: Rate = Field(0.95, description="recall@k each shard must reach against exact search")


class Warehouse(_Frozen):
    """Where the Iceberg tables are."""

    type: str = Field("hadoop", description="Iceberg catalogue type: hadoop, hive or rest")
    uri: str = Field("", description="warehouse location; default: ROOT/tables")
    namespace: str = Field("likeness", pattern=r"^[a-z][a-z0-9_]*$", description="namespace of the tables")
    options: dict[str, str] = Field(default_factory=dict, description="further Iceberg catalogue properties")


class Ingest(_Frozen):
    """How photos are read and packed."""

    chunk_images: Count = Field(20_000, description="photos committed at once; what a kill can cost")
    chunk_bytes: Count = Field(2_000_000_000, description="bytes committed at once")


class Extract(_Frozen):
    """Which vectors, and how they are made."""

    space: str = Field(
        "efficientnet_lite0.pool",
        description="backbone.layer; with @hash it is pinned, and any other weights are refused",
    )
    also: tuple[str, ...] = Field(
        (),
        description="further layers of the same network, as alexnet.fc7: the same pass gives their vectors, each "
        "layer's in a space of its own",
    )
    weights: str = Field("", description="weights file (safetensors or a state dict); default: the backbone's own")
    runtime: Literal["auto", "openvino", "torch"] = Field(
        "auto", description="auto: CUDA through torch where there is a GPU, else OpenVINO"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: float32 on CPUs, float16 on CUDA; bfloat16: faster, where `likeness profile` says so"
    )
    batch_size: Count = Field(32, description="photos gathered for a forward pass; on CPUs it may take them in parts")
    decode: Literal["processes", "network"] = Field(
        "processes",
        description="who decodes JPEGs: processes that a photo may crash, or torch on the device of the network, "
        "as nvJPEG on CUDA; other formats are always for the processes",
    )
    decode_threads: Count = Field(1, description="decoder threads beside each model")
    queue_bytes: Count = Field(256_000_000, description="bytes of decoded photos that may wait for the model")
    chunk_images: Count = Field(20_000, description="photos committed at once; what a kill can cost")
    gpus: int = Field(0, ge=0, description="GPUs an executor asks YARN for")
    tasks_per_gpu: Count = Field(1, description="tasks, each with a network of its own, that share a GPU")
    cache: str = Field("~/.cache/likeness", description="folder of each machine for converted models and copies")


class Index(_Frozen):
    """How shards are built and proved."""

    kind: str = Field("auto", description="index kind (see docs/extending.md), or auto: chosen by measured recall")
    recall: Rate = Field(0.99, description="recall@k by which a kind and what it turns at search are chosen")
    memory_gb: float = Field(8.0, gt=0, description="memory of the machine that searches, for all shards")
    build_gb: float = Field(2.0, gt=0, description="memory that one task may take to build a shard")
    metric: Literal["cosine", "l2", "ip"] = Field("cosine", description="how vectors are compared")
    max_shard_vectors: Count = Field(1_000_000, description="a larger category is split")
    pack_vectors: Count = Field(500, description="smaller categories share a shard of about so many vectors")
    traffic: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="how often categories are asked, against the mean: more gets more shards"
    )
    whole_below: int = Field(10_000, ge=0, description="a smaller index is always built whole")
    max_changed: Rate = Field(
        0.1, description="share added or removed since the last whole build, over which the next is"
    )
    max_deltas: Count = Field(8, description="nights' delta shards after which they are merged into one")
    keep_builds: Count = Field(5, description="builds kept for rollback")
    audit_queries: Count = Field(64, description="held-out queries a shard")
    audit_k: Count = Field(10, description="k of the audited recall@k")


class Keyed(_Frozen):
    """The store that gives vectors and product facts by key."""

    uri: str = Field("", description="sqlite:///path or hbase://host:port[,host:port]/name; default: ROOT/keyed.sqlite")
    reload: bool = Field(False, description="load every row anew, and delete those that no table knows")


class Train(_Frozen):
    """What is learned from the catalogue, and how."""

    name: str = Field("", pattern=r"^([a-z][a-z0-9_]*)?$", description="name of the model; default: that of the task")
    evaluation: str = Field(
        "", description="evaluation set (`likeness models freeze`) that nothing is learned from; default: the newest"
    )
    photos: Count = Field(200_000, description="photos that are learned from, at most")
    classes: list[str] = Field(default_factory=list, description="what is told apart; default: all there is")
    least: Count = Field(2, description="photos that a class needs; with fewer nothing is learned")
    seed: int = Field(0, ge=0, description="of splits, weights, batches and distortions")
    folds: int = Field(
        5,
        ge=0,
        description="parts of the cross-validation that chooses heads on fixed vectors; 1, or where more is trained: "
        "a tenth of the photos is held aside; 0: nothing is",
    )
    candidates: list[dict[str, Any]] = Field(
        default_factory=list, description="what is chosen from: tables of other settings; default: the task's own"
    )
    hidden: list[Count] = Field([256], description="units of each hidden layer of the head")
    activation: Literal["relu", "elu", "leaky", "maxout"] = Field("relu", description="of the hidden layers")
    dropout: float = Field(0.5, ge=0, lt=1, description="share of the hidden units left out at random")
    outputs: Count = Field(256, description="numbers of an embedding")
    loss: Literal["auto", "contrastive", "triplet", "l2", "smooth_l1"] = Field(
        "auto",
        description="auto: contrastive for metric, smooth_l1 for boxes; classes have cross-entropy",
    )
    temperature: float = Field(0.1, gt=0, description="of the contrastive loss")
    smoothing: Rate = Field(0.1, description="share of a target that goes to all classes")
    balance: bool = Field(False, description="rare classes count as much as frequent ones")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="how weights follow gradients")
    rate: float = Field(1e-3, gt=0, description="learning rate of what is new")
    rate_decay: float = Field(0.5, gt=0, le=1, description="learning rate of a stage, over that of the next one")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(0.05, ge=0, description="of adamw and sgd")
    warmup: float = Field(0.05, gt=0, lt=1, description="share of the steps in which the learning rate rises")
    clip: float = Field(5.0, gt=0, description="length of a gradient, at most")
    epochs: Count = Field(60, description="passes over the photos, at most")
    patience: Count = Field(10, description="epochs without anything better after which it ends")
    batch_size: Count = Field(128, description="photos of a step, those of all processes together")
    accumulate: Count = Field(1, description="pieces in which a step is computed, where memory is short")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on CUDA")
    unfreeze: str = Field("", description="first stage of the backbone that is trained, or all; default: none")
    distort: int = Field(0, ge=0, description="distorted versions of each photo that are learned from as well")
    processes: Count = Field(1, description="processes that train together")
    checkpoint_s: float = Field(60.0, gt=0, description="seconds between checkpoints")
    tensorboard: str = Field("", description="folder for TensorBoard's files; default: none are written")


class Serve(_Frozen):
    """How the query service answers."""

    k_max: Count = Field(1000, description="results that one query may ask for, those of the pages before included")
    photos_max: Count = Field(8, description="photos of one query")
    photo_url: str = Field(
        "", description="where browsers find a photo, with {image_id}, {product_id}, {category}, {uri}; default: here"
    )
    keys: str = Field("", description="file of API keys, made by `likeness key`; default: everybody may ask")
    rate: float = Field(0, ge=0, description="requests a second of one key, or of all without keys; 0: no limit")
    at_once: int = Field(0, ge=0, description="requests of one key at work at once; 0: no limit")
    cors: list[str] = Field(default_factory=list, description="origins whose pages may ask, as https://shop.example")
    leaves: list[str] = Field(
        default_factory=list, description="leaves (HOST:PORT) that hold the shards; default: this process"
    )
    leaf_token: str = Field("", description="file with the secret by which leaves know a root; default: none is wanted")
    replicas: Count = Field(1, description="leaves that hold each shard")
    deadline_ms: Count = Field(1000, description="milliseconds that leaves get for a query; what is late is left out")
    hedge_ms: Count = Field(100, description="milliseconds after which a replica is asked as well")
    category_model: str = Field(
        "category", description="model that says what a query shows, where one is in service; else neighbours vote"
    )
    drain_s: Count = Field(20, description="seconds that running queries get when the service is stopped")


class Settings(BaseSettings):
    """All of a run's settings."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="LIKENESS_", env_nested_delimiter="__")

    root: str = Field("var", description="folder that holds everything the project writes")
    spaces: tuple[str, ...] = Field(
        (),
        description="feature spaces in service side by side, with or without their hash, the first is the default; "
        "default: the one published last",
    )
    date: datetime.date = Field(default_factory=datetime.date.today, description="ingest date of new photos")
    source: Source = Source()
    limits: Limits = Limits()
    gates: Gates = Gates()
    warehouse: Warehouse = Warehouse()
    ingest: Ingest = Ingest()
    extract: Extract = Extract()
    index: Index = Index()
    keyed: Keyed = Keyed()
    train: Train = Train()
    serve: Serve = Serve()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *others: PydanticBaseSettingsSource,
        **named: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` has merged."""
        return (init_settings,)


def known_keys(model: type[BaseModel] = Settings, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of the settings, with its pydantic field."""
    keys: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            keys |= known_keys(nested, f"{prefix}{name}.")
        else:
            keys[prefix + name] = field
    return keys


def document() -> str:
    """Every key with its default and meaning, as a Markdown table."""
    rows = ["| key | default | meaning |", "| --- | --- | --- |"]
    for key, field in known_keys().items():
        default = "today" if key == "date" else field.get_default(call_default_factory=True)
        rows.append(f"| `{key}` | {f'`{default}`' if default not in ('', {}) else ''} | {field.description} |")
    return "\n".join(rows) + "\n"
