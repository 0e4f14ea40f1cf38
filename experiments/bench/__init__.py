"""`tightfit bench`: how fast a replay is, measured beside what it is compared with."""
