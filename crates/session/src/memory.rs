//! Memory that this process has freed.

/// Gives what is free in the heap back to the system.
///
/// The C library keeps the memory of a crowd that has left for the next one, for as long as something
/// small stands behind it. This walks through the heap, a few milliseconds for each gigabyte, and hands
/// every whole free page back. With another C library than glibc it does nothing.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers. It touches free memory alone, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
