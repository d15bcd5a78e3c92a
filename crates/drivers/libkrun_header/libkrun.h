/*
 * The functions of libkrun's C API that sandpen calls, for the crate krun-sys, which makes Rust
 * declarations of them. As in libkrun 1.19's own libkrun.h, but without standard headers: those
 * belong to a C compiler that need not be installed. After a change run `cargo clean -p krun-sys`, whose
 * build script does not see it.
 */
#ifndef SANDPEN_LIBKRUN_H
#define SANDPEN_LIBKRUN_H

typedef __SIZE_TYPE__ size_t;

int krun_init_log(int target_fd, unsigned int level, unsigned int style, unsigned int options);
int krun_create_ctx(void);
int krun_set_vm_config(unsigned int ctx_id, unsigned char num_vcpus, unsigned int ram_mib);
int krun_set_root(unsigned int ctx_id, const char *root_path);
int krun_add_virtiofs3(unsigned int ctx_id, const char *tag, const char *path,
                       unsigned long long shm_size, _Bool read_only);
int krun_add_disk2(unsigned int ctx_id, const char *block_id, const char *disk_path,
                   unsigned int disk_format, _Bool read_only);
int krun_fs_add_overlay_dir(unsigned int ctx_id, const char *fs_tag, const char *path,
                            unsigned int mode);
int krun_fs_add_overlay_file(unsigned int ctx_id, const char *fs_tag, const char *path,
                             const unsigned char *data, size_t data_len, unsigned int mode,
                             _Bool one_shot);
int krun_set_kernel(unsigned int ctx_id, const char *kernel_path, unsigned int kernel_format,
                    const char *initramfs, const char *cmdline);
int krun_disable_implicit_init(unsigned int ctx_id);
int krun_disable_implicit_console(unsigned int ctx_id);
int krun_disable_implicit_vsock(unsigned int ctx_id);
int krun_add_vsock(unsigned int ctx_id, unsigned int tsi_features);
int krun_set_port_map(unsigned int ctx_id, const char *const port_map[]);
int krun_add_virtio_console_default(unsigned int ctx_id, int input_fd, int output_fd, int err_fd);
int krun_add_virtio_console_multiport(unsigned int ctx_id);
int krun_add_console_port_inout(unsigned int ctx_id, unsigned int console_id, const char *name,
                                int input_fd, int output_fd);
int krun_add_serial_console_default(unsigned int ctx_id, int input_fd, int output_fd);
int krun_start_enter(unsigned int ctx_id);

#endif
