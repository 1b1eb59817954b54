CREATE TABLE IF NOT EXISTS likeness.sources (
  uri STRING NOT NULL COMMENT 'file, or container!/member',
  length BIGINT NOT NULL COMMENT 'bytes',
  mtime BIGINT NOT NULL COMMENT 'last change of the file or container, microseconds since 1970',
  outcome STRING NOT NULL COMMENT 'image or rejected',
  image_id STRING COMMENT 'of its image',
  reason STRING COMMENT 'why it was rejected',
  run_id STRING NOT NULL COMMENT 'run that read it'
) USING iceberg
COMMENT 'One file or member of the source, and the outcome of reading it'
TBLPROPERTIES ('format-version'='2', 'write.distribution-mode'='none', 'write.delete.mode'='copy-on-write', 'write.update.mode'='copy-on-write', 'write.merge.mode'='copy-on-write', 'write.parquet.compression-codec'='zstd', 'write.metadata.delete-after-commit.enabled'='true', 'write.metadata.previous-versions-max'='100', 'commit.retry.num-retries'='20');
