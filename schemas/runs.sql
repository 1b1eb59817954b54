CREATE TABLE IF NOT EXISTS likeness.runs (
  run_id STRING NOT NULL COMMENT 'start time and process',
  job STRING NOT NULL COMMENT 'nightly or a stage',
  status STRING NOT NULL COMMENT 'done, refused, failed or killed',
  started TIMESTAMP NOT NULL COMMENT 'when it began',
  ended TIMESTAMP COMMENT 'when it ended',
  space STRING COMMENT 'feature space',
  build STRING COMMENT 'build in service when it ended',
  error STRING COMMENT 'error message of a run that is not done',
  settings STRING NOT NULL COMMENT 'settings of the run, JSON',
  facts STRING NOT NULL COMMENT 'counts, seconds and snapshots by stage, JSON'
) USING iceberg
COMMENT 'One run'
TBLPROPERTIES ('format-version'='2', 'write.distribution-mode'='none', 'write.delete.mode'='copy-on-write', 'write.update.mode'='copy-on-write', 'write.merge.mode'='copy-on-write', 'write.parquet.compression-codec'='zstd', 'write.metadata.delete-after-commit.enabled'='true', 'write.metadata.previous-versions-max'='100', 'commit.retry.num-retries'='20');
