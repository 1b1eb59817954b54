"""The settings: a frozen model for each section, and `Settings`, which has all sections."""

import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

Rate = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    """Base of the sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Section):
    """The source of photos, and its catalogue."""

    uri: str = Field("", description="folder, .tar or .parquet file of photos")
    catalogue: str = Field("", description="CSV, JSON lines or Parquet; default: catalogue.* in the source")
    mode: Literal["delta", "full"] = Field(
        "delta", description="delta: a product that the source lacks stays listed; full: it is withdrawn"
    )


class Limits(_Section):
    """Limits of one photo."""

    max_bytes: Count = Field(30_000_000, description="maximum bytes of a file")
    max_pixels: Count = Field(100_000_000, description="maximum pixels; checked before a photo is decoded")
    decode_timeout_s: float = Field(30.0, gt=0, le=86_400, description="maximum seconds to decode a photo")


class Gates(_Section):
    """Limits beyond which a run stops before it publishes (exit code 3)."""

    max_failure_rate: Rate = Field(0.05, description="maximum share of photos with a standing failure")
    max_withdraw_rate: Rate = Field(0.2, description="maximum share of active listings that a run withdraws")
    min_recall: Rate = Field(0.95, description="minimum recall@k of each shard against exact search")


class Warehouse(_Section):
    """The Iceberg catalogue of the tables."""

    type: str = Field("hadoop", description="Iceberg catalogue type: hadoop, hive or rest")
    uri: str = Field("", description="folder of the tables; default: ROOT/tables")
    namespace: str = Field("likeness", pattern=r"^[a-z][a-z0-9_]*$", description="namespace of the tables")
    options: dict[str, str] = Field(default_factory=dict, description="further Iceberg catalogue properties")


class Ingest(_Section):
    """Reading photos into the tables."""

    chunk_images: Count = Field(20_000, description="photos in one commit; a killed run loses at most so many")
    chunk_bytes: Count = Field(2_000_000_000, description="bytes of photos in one commit")


class Extract(_Section):
    """Extraction: the feature space and how its vectors are computed."""

    space: str = Field(
        "efficientnet_lite0.pool",
        description="feature space as backbone.layer; with @hash, other weights are refused",
    )
    also: tuple[str, ...] = Field(
        (),
        description="further layers of the same network, such as alexnet.fc7, computed in the same pass; each is a "
        "feature space of its own",
    )
    weights: str = Field("", description="weights file (safetensors or a state dict); default: the backbone's own")
    runtime: Literal["auto", "openvino", "torch"] = Field(
        "auto", description="inference runtime; auto: torch on a CUDA GPU if there is one, else OpenVINO"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: float32 on CPUs, float16 on CUDA; `likeness profile` says where bfloat16 is faster"
    )
    batch_size: Count = Field(32, description="photos of a batch; a CPU runtime may split it")
    decode: Literal["processes", "network"] = Field(
        "processes",
        description="decoder of JPEGs; processes: in processes that a broken photo may crash; network: by torch on the "
        "device of the network, such as nvJPEG on CUDA; other formats always use processes",
    )
    decode_threads: Count = Field(1, description="decoders of each network")
    queue_bytes: Count = Field(256_000_000, description="maximum bytes of decoded photos that wait for the network")
    chunk_images: Count = Field(20_000, description="photos in one commit; a killed run loses at most so many")
    gpus: int = Field(0, ge=0, description="GPUs of each executor, requested from YARN")
    tasks_per_gpu: Count = Field(1, description="tasks that share a GPU, each with its own copy of the network")
    cache: str = Field("~/.cache/likeness", description="folder on each machine for converted networks and copies")


class Index(_Section):
    """Building and auditing the index."""

    kind: str = Field("auto", description="index kind (see docs/extending.md); auto: chosen by measured recall")
    recall: Rate = Field(0.99, description="recall@k that the chosen kind and search parameters must reach")
    memory_gb: float = Field(8.0, gt=0, description="memory of the serving machine for all shards, in GB")
    build_gb: float = Field(2.0, gt=0, description="maximum memory of a task that builds a shard, in GB")
    metric: Literal["cosine", "l2", "ip"] = Field("cosine", description="distance metric")
    max_shard_vectors: Count = Field(1_000_000, description="maximum vectors of a shard; a larger category is split")
    pack_vectors: Count = Field(500, description="smaller categories are packed into shards of about this size")
    traffic: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="queries of a category relative to the mean; more get more shards",
    )
    whole_below: int = Field(10_000, ge=0, description="an index of fewer vectors is always rebuilt whole")
    max_changed: Rate = Field(
        0.1,
        description="share added or removed since the last whole build above which the next is whole",
    )
    max_deltas: Count = Field(8, description="delta builds after which their shards are merged into one")
    keep_builds: Count = Field(5, description="number of builds kept for rollback")
    audit_queries: Count = Field(64, description="held-out queries of the recall audit of each shard")
    audit_k: Count = Field(10, description="k of the recall audit")


class Keyed(_Section):
    """The keyed store of vectors and product facts."""

    uri: str = Field("", description="sqlite:///path or hbase://host:port[,host:port]/name; default: ROOT/keyed.sqlite")
    reload: bool = Field(False, description="load all rows again, and delete rows that the tables lack")


class Train(_Section):
    """Training of models on the catalogue."""

    name: str = Field("", pattern=r"^([a-z][a-z0-9_]*)?$", description="name of the model; default: the task")
    evaluation: str = Field(
        "",
        description="evaluation set (`likeness models freeze`), left out of training; default: the newest",
    )
    photos: Count = Field(200_000, description="maximum number of training photos")
    classes: list[str] = Field(default_factory=list, description="classes to learn; default: all of the catalogue")
    least: Count = Field(2, description="minimum photos of a class; with fewer, training is refused")
    seed: int = Field(0, ge=0, description="seed of splits, weights, batches and augmentation")
    folds: int = Field(
        5,
        ge=0,
        description="folds of the cross-validation that chooses a head on fixed vectors; 1, or if the backbone is "
        "trained too: one tenth of the photos for validation; 0: no validation",
    )
    candidates: list[dict[str, Any]] = Field(
        default_factory=list,
        description="settings to choose from, a table each; default: those of the task",
    )
    hidden: list[Count] = Field([256], description="units of each hidden layer of the head")
    activation: Literal["relu", "elu", "leaky", "maxout"] = Field("relu", description="activation of the hidden layers")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout rate of the hidden layers")
    outputs: Count = Field(256, description="dimension of an embedding")
    loss: Literal["auto", "contrastive", "triplet", "l2", "smooth_l1"] = Field(
        "auto",
        description="auto: contrastive for the task metric, smooth_l1 for boxes; classes always use cross-entropy",
    )
    temperature: float = Field(0.1, gt=0, description="temperature of the contrastive loss")
    smoothing: Rate = Field(0.1, description="label smoothing: share of the target spread over all classes")
    balance: bool = Field(False, description="weight classes inversely to their frequency")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="optimizer")
    rate: float = Field(1e-3, gt=0, description="learning rate of new layers")
    rate_decay: float = Field(0.5, gt=0, le=1, description="learning rate of a stage over that of the next")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    weight_decay: float = Field(0.05, ge=0, description="weight decay of adamw and sgd")
    warmup: float = Field(0.05, gt=0, lt=1, description="share of the steps in which the learning rate warms up")
    clip: float = Field(5.0, gt=0, description="maximum norm of a gradient")
    epochs: Count = Field(60, description="maximum number of epochs")
    patience: Count = Field(10, description="epochs without improvement after which training stops")
    batch_size: Count = Field(128, description="photos of a step, over all processes")
    accumulate: Count = Field(1, description="parts in which the gradient of a step is accumulated, to save memory")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on CUDA")
    unfreeze: str = Field("", description="first stage of the backbone to fine-tune, or all; default: none")
    distort: int = Field(0, ge=0, description="augmented versions of each photo to train on as well")
    processes: Count = Field(1, description="processes of distributed training")
    checkpoint_s: float = Field(60.0, gt=0, description="seconds between checkpoints")
    tensorboard: str = Field("", description="folder for TensorBoard's event files; default: none are written")


class Serve(_Section):
    """The query service."""

    k_max: Count = Field(1000, description="maximum results of a query, including those of earlier pages")
    photos_max: Count = Field(8, description="maximum photos of a query")
    photo_url: str = Field(
        "",
        description="URL of a photo, with {image_id}, {product_id}, {category}, {uri}; default: this service",
    )
    keys: str = Field("", description="file of API keys, written by `likeness key`; default: no key is required")
    rate: float = Field(0, ge=0, description="requests per second of a key, or of all without keys; 0: no limit")
    at_once: int = Field(0, ge=0, description="concurrent requests of each key; 0: no limit")
    cors: list[str] = Field(default_factory=list, description="allowed CORS origins, such as https://shop.example")
    leaves: list[str] = Field(
        default_factory=list, description="leaves (HOST:PORT) that search the shards; default: this process"
    )
    leaf_token: str = Field("", description="file with the secret that leaves require of the root; default: none")
    replicas: Count = Field(1, description="number of leaves that load each shard")
    deadline_ms: Count = Field(1000, description="deadline of a leaf in milliseconds; later results are left out")
    hedge_ms: Count = Field(100, description="milliseconds after which the query is also sent to a replica")
    category_model: str = Field(
        "category",
        description="model that predicts a query's category; without one in service, neighbours vote",
    )
    drain_s: Count = Field(20, description="seconds for running queries to finish when the service stops")


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="LIKENESS_", env_nested_delimiter="__")

    root: str = Field("var", description="folder or URI of all that likeness writes")
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
        """Takes only the values that `load_settings` has merged."""
        return (init_settings,)
