CREATE TABLE IF NOT EXISTS likeness.listings (
  product_id STRING NOT NULL COMMENT 'from the catalogue',
  image_id STRING NOT NULL COMMENT 'of the photo',
  uri STRING NOT NULL COMMENT 'of the photo, from the catalogue',
  category STRING NOT NULL COMMENT 'from the catalogue',
  attributes STRING NOT NULL COMMENT 'other columns of the catalogue, a JSON object of text',
  active BOOLEAN NOT NULL COMMENT 'false once withdrawn',
  since TIMESTAMP NOT NULL COMMENT 'start of the run that last changed this row'
) USING iceberg
COMMENT 'A product shows an image'
TBLPROPERTIES ('format-version'='2', 'write.distribution-mode'='none', 'write.delete.mode'='copy-on-write', 'write.update.mode'='copy-on-write', 'write.merge.mode'='copy-on-write', 'write.parquet.compression-codec'='zstd', 'write.metadata.delete-after-commit.enabled'='true', 'write.metadata.previous-versions-max'='100', 'commit.retry.num-retries'='20');
