"""The settings: a frozen model for each section, and `Settings`, which has all sections."""

import datetime
import re
import string
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Rate = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Values = dict[str, Any]
"""Values by key, nested as in a TOML file."""
_PHOTO_FIELDS = ("image_id", "product_id", "category", "uri")
_ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[^\s:/@\[\]]+):([0-9]{1,5})")
_ORIGIN = re.compile(r"https?://[^\s/?#@]+")


class _Section(BaseModel):
    """Base of the sections: frozen, an unknown key is an error, and the text below a field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        """Puts each description on one line."""
        for field in cls.model_fields.values():
            field.description = " ".join((field.description or "").split())


class Source(_Section):
    """The source of photos, and its catalogue."""

    uri: str = ""
    """folder, .tar or .parquet file of photos"""
    catalogue: str = ""
    """CSV, JSON lines or Parquet; default: catalogue.* in the source"""
    mode: Literal["delta", "full"] = "delta"
    """delta: a product that the source lacks stays listed; full: it is withdrawn"""


class Limits(_Section):
    """Limits of one photo."""

    section: ClassVar[str] = "limits"
    """Where they are set, for messages."""
    max_bytes: Count = 30_000_000
    """maximum bytes of a file"""
    max_pixels: Count = 100_000_000
    """maximum pixels; checked before a photo is decoded"""
    decode_timeout_s: float = Field(30.0, gt=0, le=86_400)
    """maximum seconds to decode a photo"""


class QueryLimits(Limits):
    """Limits of one photo that is searched with."""

    section: ClassVar[str] = "serve"


class Gates(_Section):
    """Limits beyond which a run stops before it publishes (exit code 3)."""

    max_failure_rate: Rate = 0.05
    """maximum share of photos with a standing failure"""
    max_withdraw_rate: Rate = 0.2
    """maximum share of active listings that a run withdraws"""
    min_recall: Rate = 0.95
    """minimum recall@k of each shard against exact search"""


class Warehouse(_Section):
    """The Iceberg catalogue of the tables."""

    type: str = "hadoop"
    """Iceberg catalogue type: hadoop, hive or rest"""
    uri: str = ""
    """folder of the tables; default: ROOT/tables"""
    namespace: str = Field("likeness", pattern=r"^[a-z][a-z0-9_]*$")
    """namespace of the tables"""
    options: dict[str, str] = {}
    """further Iceberg catalogue properties"""


class Ingest(_Section):
    """Reading photos into the tables."""

    chunk_images: Count = 20_000
    """photos in one commit; a killed run loses at most so many"""
    chunk_bytes: Count = 2_000_000_000
    """bytes of photos in one commit"""


class Extract(_Section):
    """Extraction: the feature space and how its vectors are computed."""

    space: str = "efficientnet_lite0.pool"
    """feature space as backbone.layer; with @hash, other weights are refused"""
    also: tuple[str, ...] = ()
    """further layers of the same network, such as alexnet.fc7, computed in the same pass; each is a feature space of
    its own"""
    weights: str = ""
    """weights file (safetensors or a state dict); default: the backbone's own"""
    runtime: Literal["auto", "openvino", "torch"] = "auto"
    """inference runtime; auto: torch on a CUDA GPU if there is one, else OpenVINO"""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: float32 on CPUs, float16 on CUDA; `likeness profile` says where bfloat16 is faster"""
    batch_size: Count = 32
    """photos of a batch; a CPU runtime may split it"""
    decode: Literal["processes", "network"] = "processes"
    """decoder of JPEGs; processes: in processes that a broken photo may crash; network: by torch on the device of the
    network, such as nvJPEG on CUDA; other formats always use processes"""
    decode_threads: Count = 1
    """decoders of each network"""
    queue_bytes: Count = 256_000_000
    """maximum bytes of decoded photos that wait for the network"""
    chunk_images: Count = 20_000
    """photos in one commit; a killed run loses at most so many"""
    gpus: Natural = 0
    """GPUs of each executor, requested from YARN"""
    tasks_per_gpu: Count = 1
    """tasks that share a GPU, each with its own copy of the network"""
    cache: str = "~/.cache/likeness"
    """folder on each machine for converted networks and copies"""


class Index(_Section):
    """Building and auditing the index."""

    kind: str = "auto"
    """index kind (see docs/extending.md); auto: chosen by measured recall"""
    recall: Rate = 0.99
    """recall@k that the chosen kind and search parameters must reach"""
    memory_gb: Positive = 8.0
    """memory of the serving machine for all shards, in GB"""
    build_gb: Positive = 2.0
    """maximum memory of a task that builds a shard, in GB"""
    metric: Literal["cosine", "l2", "ip"] = "cosine"
    """distance metric"""
    max_shard_vectors: Count = 1_000_000
    """maximum vectors of a shard; a larger category is split"""
    pack_vectors: Count = 500
    """smaller categories are packed into shards of about this size"""
    traffic: dict[str, Positive] = {}
    """queries of a category relative to the mean; more get more shards"""
    whole_below: Natural = 10_000
    """an index of fewer vectors is always rebuilt whole"""
    max_changed: Rate = 0.1
    """share added or removed since the last whole build above which the next is whole"""
    max_deltas: Count = 8
    """delta builds after which their shards are merged into one"""
    keep_builds: Count = 5
    """number of builds kept for rollback"""
    audit_queries: Count = 64
    """held-out queries of the recall audit of each shard"""
    audit_k: Count = 10
    """k of the recall audit"""


class Keyed(_Section):
    """The keyed store of vectors and product facts."""

    uri: str = ""
    """sqlite:///path or hbase://host:port[,host:port]/name; default: ROOT/keyed.sqlite"""
    reload: bool = False
    """load all rows again, and delete rows that the tables lack"""


class Train(_Section):
    """Training of models on the catalogue."""

    name: str = Field("", pattern=r"^([a-z][a-z0-9_]*)?$")
    """name of the model; default: the task"""
    evaluation: str = ""
    """evaluation set (`likeness models freeze`), left out of training; default: the newest"""
    photos: Count = 200_000
    """maximum number of training photos"""
    classes: list[str] = []
    """classes to learn; default: all of the catalogue"""
    least: Count = 2
    """minimum photos of a class; with fewer, training is refused"""
    seed: Natural = 0
    """seed of splits, weights, batches and augmentation"""
    folds: Natural = 5
    """folds of the cross-validation that chooses a head on fixed vectors; 1, or if the backbone is trained too: one
    tenth of the photos for validation; 0: no validation"""
    candidates: list[Values] = []
    """settings to choose from, a table each; default: those of the task"""
    hidden: list[Count] = [256]
    """units of each hidden layer of the head"""
    activation: Literal["relu", "elu", "leaky", "maxout"] = "relu"
    """activation of the hidden layers"""
    dropout: float = Field(0.5, ge=0, lt=1)
    """dropout rate of the hidden layers"""
    outputs: Count = 256
    """dimension of an embedding"""
    loss: Literal["auto", "contrastive", "triplet", "l2", "smooth_l1"] = "auto"
    """auto: contrastive for the task metric, smooth_l1 for boxes; classes always use cross-entropy"""
    temperature: Positive = 0.1
    """temperature of the contrastive loss"""
    smoothing: Rate = 0.1
    """label smoothing: share of the target spread over all classes"""
    balance: bool = False
    """weight classes inversely to their frequency"""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """optimizer"""
    rate: Positive = 1e-3
    """learning rate of new layers"""
    rate_decay: float = Field(0.5, gt=0, le=1)
    """learning rate of a stage over that of the next"""
    momentum: float = Field(0.9, ge=0, lt=1)
    """momentum of sgd"""
    weight_decay: float = Field(0.05, ge=0)
    """weight decay of adamw and sgd"""
    warmup: float = Field(0.05, gt=0, lt=1)
    """share of the steps in which the learning rate warms up"""
    clip: Positive = 5.0
    """maximum norm of a gradient"""
    epochs: Count = 60
    """maximum number of epochs"""
    patience: Count = 10
    """epochs without improvement after which training stops"""
    batch_size: Count = 128
    """photos of a step, over all processes"""
    accumulate: Count = 1
    """parts in which the gradient of a step is accumulated, to save memory"""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on CUDA"""
    unfreeze: str = ""
    """first stage of the backbone to fine-tune, or all; default: none"""
    distort: Natural = 0
    """augmented versions of each photo to train on as well"""
    processes: Count = 1
    """processes of distributed training"""
    checkpoint_s: Positive = 60.0
    """seconds between checkpoints"""
    tensorboard: str = ""
    """folder for TensorBoard's event files; default: none are written"""


class Serve(_Section):
    """The query service."""

    k_max: Count = 1000
    """maximum results of a query, including those of earlier pages"""
    photos_max: Count = 8
    """maximum photos of a query"""
    max_bytes: Count = 15_000_000
    """maximum bytes of a photo of a query"""
    max_pixels: Count = 25_000_000
    """maximum pixels of a photo of a query; checked before it is decoded"""
    bytes_in_flight: Count = 256_000_000
    """maximum bytes of all request bodies in memory; one client may hold as many as it leaves free"""
    connections: Count = 4096
    """maximum open connections, and at most half of the process's file descriptors; beyond them the oldest idle one is
    closed"""
    header_s: Count = 10
    """seconds for the headers of a request to arrive"""
    body_s: Count = 30
    """seconds for the body of a request to arrive, and for a client to take the answer"""
    idle_s: Count = 75
    """seconds that a connection may be idle between two requests"""
    photo_url: str = ""
    """URL of a photo, with {image_id}, {product_id}, {category}, {uri}; default: this service"""
    keys: str = ""
    """file of API keys, written by `likeness key`; default: no key is required"""
    rate: float = Field(0, ge=0)
    """requests per second of a key, or of all without keys; 0: no limit"""
    at_once: Natural = 0
    """concurrent requests of each key; 0: no limit"""
    builds: list[str] = []
    """keys, by name, whose requests may load builds out of service (build=NAME); *: all requests"""
    uris: list[str] = []
    """keys, by name, whose answers over HTTP have `uri`, the place that a photo was read from; *: all answers"""
    metrics: list[str] = []
    """keys, by name, that may read /metrics; *: all keys; without keys everyone may"""
    metrics_port: int = Field(0, ge=0, le=65535)
    """port of its own for /metrics, at the address of the service and without a key; 0: the port of the service"""
    hosts: list[str] = []
    """host names that requests may name, such as search.shop.example or *.shop.example; default: any"""
    cors: list[str] = []
    """allowed CORS origins, such as https://shop.example"""
    leaves: list[str] = []
    """leaves (HOST:PORT) that search the shards; default: this process"""
    leaf_token: str = ""
    """file with the secret that leaves require of the root; default: none"""
    replicas: Count = 1
    """number of leaves that load each shard"""
    facts_ms: Count = 50
    """time limit of the keyed store for the facts of an answer in milliseconds; later ones are left out"""
    deadline_ms: Count = 1000
    """deadline of a leaf, and of the keyed store where a query needs it, in milliseconds; later results are left out.
    A query whose photos are not decoded by then is refused"""
    hedge_ms: Count = 100
    """milliseconds after which the query is also sent to a replica"""
    category_model: str = "category"
    """model that predicts a query's category; without one in service, neighbours vote"""
    drain_s: Count = 20
    """seconds for running queries to finish when the service stops"""

    @field_validator("photo_url")
    @classmethod
    def _is_url(cls, template: str) -> str:
        """The URL of a photo must differ from photo to photo, and hold no name but those that are known."""
        if not template:
            return template
        try:
            fields = [tuple(rest) for _, *rest in string.Formatter().parse(template) if rest[0] is not None]
        except ValueError as error:
            raise ValueError(f"{error}; write a brace that is no field twice") from None
        names = ", ".join(f"{{{name}}}" for name in _PHOTO_FIELDS)
        if any(name not in _PHOTO_FIELDS or spec or conversion for name, spec, conversion in fields) or not fields:
            raise ValueError(f"a photo's URL has one or more of {names}, and no other field")
        if not template.startswith(("http://", "https://", "/", "{uri}")):
            raise ValueError("a photo's URL starts with https://, http://, / or {uri}")
        return template

    @field_validator("builds")
    @classmethod
    def _has_keys(cls, names: list[str], info: ValidationInfo) -> list[str]:
        """A key can be named only where there are keys."""
        if set(names) - {"*"} and not info.data.get("keys"):
            raise ValueError("it names keys, but serve.keys names no file of them; * lets everybody")
        return names

    @field_validator("cors")
    @classmethod
    def _are_origins(cls, origins: list[str]) -> list[str]:
        """An origin as browsers send it."""
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin; write it as https://host or https://host:port, without a path"
                )
        return origins

    @field_validator("leaves")
    @classmethod
    def _are_addresses(cls, leaves: list[str]) -> list[str]:
        """Addresses with a port that can be connected to, each once."""
        for leaf in leaves:
            match = _ADDRESS.fullmatch(leaf)
            if not match or not 1 <= int(match[1]) <= 65535:
                raise ValueError(f"{leaf!r} is not HOST:PORT, such as 10.0.0.5:8081")
            if leaves.count(leaf) > 1:
                raise ValueError(f"{leaf!r} is named twice; name each leaf once")
        return leaves

    @field_validator("replicas")
    @classmethod
    def _has_leaves(cls, replicas: int, info: ValidationInfo) -> int:
        """Each replica needs a leaf of its own."""
        leaves = info.data.get("leaves", [])
        if leaves and replicas > len(leaves):
            raise ValueError(f"each replica needs a leaf of its own, and {len(leaves)} are named in serve.leaves")
        return replicas

    @property
    def photo_limits(self) -> QueryLimits:
        """The limits of each photo of a query."""
        timeout_s = self.deadline_ms / 1000
        return QueryLimits(max_bytes=self.max_bytes, max_pixels=self.max_pixels, decode_timeout_s=timeout_s)

    @property
    def max_photo_bytes(self) -> int:
        """Bytes of all photos of a query."""
        return self.photos_max * self.max_bytes


class Settings(_Section):
    """All settings."""

    root: str = "var"
    """folder or URI of all that likeness writes"""
    spaces: tuple[str, ...] = ()
    """feature spaces in service side by side, with or without their hash, the first is the default; default: the one
    published last"""
    date: datetime.date = Field(default_factory=datetime.date.today)
    """ingest date of new photos"""
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
