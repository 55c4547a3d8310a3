"""Data as tar shards that are read from end to end, by the `webdataset` library, for data on slow or shared disks."""
