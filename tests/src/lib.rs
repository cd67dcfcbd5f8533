//! Black-box tests of the davit binary with real containers.
