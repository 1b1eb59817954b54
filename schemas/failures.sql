CREATE TABLE IF NOT EXISTS likeness.failures (
  what STRING NOT NULL COMMENT 'catalogue row (list), uri (list, ingest) or image_id (extract)',
  stage STRING NOT NULL COMMENT 'list, ingest or extract',
  space STRING NOT NULL COMMENT 'feature space, empty but for extract',
  reason STRING NOT NULL COMMENT 'short code',
  detail STRING NOT NULL COMMENT 'message',
  attempts INT NOT NULL COMMENT 'number of attempts',
  last TIMESTAMP NOT NULL COMMENT 'time of the last attempt',
  run_id STRING NOT NULL COMMENT 'run of the last attempt'
) USING iceberg
COMMENT 'The failure ledger: what was rejected or failed, and has not succeeded since'
TBLPROPERTIES ('format-version'='2', 'write.distribution-mode'='none', 'write.delete.mode'='copy-on-write', 'write.update.mode'='copy-on-write', 'write.merge.mode'='copy-on-write', 'write.parquet.compression-codec'='zstd', 'write.metadata.delete-after-commit.enabled'='true', 'write.metadata.previous-versions-max'='100', 'commit.retry.num-retries'='20');
