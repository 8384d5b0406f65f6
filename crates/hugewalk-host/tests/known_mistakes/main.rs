//! Mistakes that have been made, or almost, in just these paths: a test for each, which fails when the mistake is put in.
//!
//! | scenario | mistake | what shows it |
//! |---|---|---|
//! | S19 | who waits for the handler takes a sleeping lock after it has queued: a lost wake-up | does not compile: `nothing_sleeps_between_queueing_and_looking` in `hugewalk/tests/compile_fail`; no wake-up is lost at any step: `../uffd_steps.rs`, nor in thousands of rounds: `../uffd/stress.rs` |
//! | S20 | a registration unshares, and its flags show only later | [`sharing::nobody_shares_with_a_mapping_once_registering_it_has_unshared_it`]; on many threads in `../uffd/sharing.rs` |
//! | S21 | who waits for a VMA lock with `i_mmap` let go goes on when it has it, and the VMA is dead | [`locks::whoever_waits_for_the_lock_of_a_vma_leaves_what_took_its_place_alone`]; truncation finds its mappings anew: [`locks::whoever_waits_for_the_lock_of_a_vma_sees_that_it_died`], `../truncate.rs`, `../rmap.rs` |
//! | S22 | the final unmap lets `i_mmap` go before the VMA has left the tree | [`sharing::nobody_shares_with_a_mapping_that_dies_once_it_is_empty`] |
//! | S23 | mremap holds `i_mmap` in write, and the new table looks for a partner under it | [`locks::a_move_to_where_tables_are_shared_comes_to_an_end`] |
//! | S24 | the lock of a private mapping, its reservation's, is taken for a shared one's, or overlooked | [`locks::a_hole_waits_for_a_fault_on_a_private_mapping`]; `../truncate.rs` |
//! | S25 | truncation waits for a VMA lock under `i_mmap`, a fault for `i_mmap` under a VMA lock | [`locks::truncation_and_faults_that_share_come_to_an_end`]; `../truncate.rs` |
//! | S26 | a visitor of a page walk takes the VMA lock in write under the walk's read | does not compile: `a_visitor_does_not_take_the_locks_of_its_walk` in `hugewalk/tests/compile_fail` |
//! | S27 | page lock, then `i_mmap`, against `i_mmap`, then page lock | [`locks::pages_are_unmapped_moved_and_punched_out_at_once`] |
//! | S28 | a walker loads the entry on its way twice | [`loads::a_read_is_never_of_a_table_that_another_load_of_the_parent_led_to`] |
//! | S29 | a table, a page, a record cannot be had | `hugewalk/tests/out_of_memory.rs`; `../uffd/memory.rs` |

mod loads;
mod locks;
#[path = "../pages/mod.rs"]
mod pages;
mod sharing;
#[path = "../stepped/mod.rs"]
mod stepped;
mod world;
