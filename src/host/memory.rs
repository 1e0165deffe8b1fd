//! What the allocator keeps of freed memory.

/// Gives freed memory back to the kernel. glibc keeps what a thread freed for that thread's next use, which for a
/// thousand VFs is three times what the agent needs at rest (malloc_trim(3)).
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks and touches free memory only; any thread may call it at any time.
    #[allow(unsafe_code)]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
