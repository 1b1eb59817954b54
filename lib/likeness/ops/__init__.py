"""Operations: backfill coverage, estimates of a run, consistency of stores, hardware profile, contracts, reports."""
