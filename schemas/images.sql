CREATE TABLE IF NOT EXISTS likeness.images (
  image_id STRING NOT NULL COMMENT 'SHA-256 of the bytes, hexadecimal',
  bytes BINARY NOT NULL COMMENT 'the encoded photo',
  format STRING NOT NULL COMMENT 'JPEG, PNG, WEBP ...',
  width INT NOT NULL COMMENT 'pixels as stored',
  height INT NOT NULL COMMENT 'pixels as stored',
  size BIGINT NOT NULL COMMENT 'bytes',
  uri STRING NOT NULL COMMENT 'of the first place it was read from',
  ingest_date DATE NOT NULL COMMENT 'day on which the photo was ingested'
) USING iceberg
PARTITIONED BY (ingest_date)
COMMENT 'One photo, with its bytes'
TBLPROPERTIES ('format-version'='2', 'write.distribution-mode'='none', 'write.delete.mode'='copy-on-write', 'write.update.mode'='copy-on-write', 'write.merge.mode'='copy-on-write', 'write.parquet.compression-codec'='zstd', 'write.metadata.delete-after-commit.enabled'='true', 'write.metadata.previous-versions-max'='100', 'commit.retry.num-retries'='20', 'write.parquet.row-group-size-bytes'='8388608', 'write.parquet.page-size-bytes'='1048576', 'read.split.target-size'='8388608', 'read.split.open-file-cost'='65536');
