"""A plan at work: members that answer for their sub-models, and a coordinator that fuses what comes in time."""
