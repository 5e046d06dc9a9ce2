//! Record batches (magic 2): read their headers, filter them, and make of them what a target accepts.
