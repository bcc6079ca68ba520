"""References: what each kernel computes, in plain torch and in float64 where sums are long."""
