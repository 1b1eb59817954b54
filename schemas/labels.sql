CREATE TABLE IF NOT EXISTS likeness.labels (
  image_id STRING NOT NULL COMMENT 'of the photo',
  space STRING NOT NULL COMMENT 'feature space of the class scores, backbone.logits@hash',
  labels ARRAY<STRING> NOT NULL COMMENT 'the five most probable classes, most probable first',
  probabilities ARRAY<FLOAT> NOT NULL COMMENT 'of these classes'
) USING iceberg
PARTITIONED BY (space)
COMMENT 'The most probable classes of one photo by an ImageNet classifier'
TBLPROPERTIES ('format-version'='2', 'write.distribution-mode'='none', 'write.delete.mode'='copy-on-write', 'write.update.mode'='copy-on-write', 'write.merge.mode'='copy-on-write', 'write.parquet.compression-codec'='zstd', 'write.metadata.delete-after-commit.enabled'='true', 'write.metadata.previous-versions-max'='100', 'commit.retry.num-retries'='20');
