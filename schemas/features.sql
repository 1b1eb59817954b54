CREATE TABLE IF NOT EXISTS likeness.features (
  image_id STRING NOT NULL COMMENT 'of the photo',
  space STRING NOT NULL COMMENT 'feature space, backbone.layer@hash',
  ingest_date DATE NOT NULL COMMENT 'ingest date of the photo',
  vector ARRAY<FLOAT> NOT NULL COMMENT 'output of the layer, not normalised',
  norm DOUBLE NOT NULL COMMENT 'Euclidean length of the vector'
) USING iceberg
PARTITIONED BY (space, ingest_date)
COMMENT 'One vector of a photo, or of a region of it, in one feature space'
TBLPROPERTIES ('format-version'='2', 'write.distribution-mode'='none', 'write.delete.mode'='copy-on-write', 'write.update.mode'='copy-on-write', 'write.merge.mode'='copy-on-write', 'write.parquet.compression-codec'='zstd', 'write.metadata.delete-after-commit.enabled'='true', 'write.metadata.previous-versions-max'='100', 'commit.retry.num-retries'='20', 'read.split.target-size'='33554432', 'read.split.open-file-cost'='65536');
ALTER TABLE likeness.features ADD COLUMN region STRING COMMENT 'part of the photo; empty or null: the whole photo';
