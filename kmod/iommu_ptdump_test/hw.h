/* SPDX-License-Identifier: GPL-2.0-only */
/* Devices of the test module: what hw.c and dma.c share. */
#ifndef __IOMMU_PTDUMP_TEST_HW_H
#define __IOMMU_PTDUMP_TEST_HW_H

#include <linux/iommu.h>
#include <linux/list.h>
#include <linux/pci.h>

#include "ptdump_test.h"

/**
 * struct ptt_group - an IOMMU group with at least one of our devices
 * @node: in the list of groups
 * @group: the core's
 * @handle: what iommu_replace_group_handle() wants, or NULL
 * @domain: attached domain or NULL
 * @devices: number of our devices in it
 * @attached: how many of them were attached by name
 * @shared: mappings of the DMA API for its devices; while there are any it is not ours
 */
struct ptt_group {
	struct list_head node;
	struct iommu_group *group;
	struct iommu_attach_handle *handle;
	struct ptt_domain *domain;
	unsigned int devices;
	unsigned int attached;
	unsigned int shared;
};

/**
 * struct ptt_device - an edu device
 * @node: in the list of devices
 * @name: edu0, edu1, ... in the order of their addresses, see names.c
 * @number: the N of eduN, by which they are listed
 * @pdev: the device
 * @bar: its registers
 * @group: its group, NULL when it has no IOMMU
 * @attached: it was attached by name
 * @filled: its buffer holds the pattern of @seed
 * @seed: see dma
 */
struct ptt_device {
	struct list_head node;
	char name[PTT_NAME_LEN];
	unsigned int number;
	struct pci_dev *pdev;
	void __iomem *bar;
	struct ptt_group *group;
	bool attached;
	bool filled;
	u64 seed;
};

#define EDU_VENDOR 0x1234
#define EDU_DEVICE 0x11e8

/* names.c */
int ptt_name_device(struct ptt_device *dev);
void ptt_names_free(void);

/* hw.c */
extern struct list_head ptt_devices;
struct ptt_device *ptt_find_device(const char *name);
void ptt_group_pause(struct ptt_group *group);
int ptt_group_resume(struct ptt_group *group);
int ptt_attach_device(struct ptt_domain *d, struct ptt_device *dev, struct ptt_reply *reply);
void ptt_detach_device(struct ptt_device *dev);

/* group.c */
int ptt_group_join(struct ptt_device *dev);
void ptt_group_leave(struct ptt_device *dev);
int ptt_group_give(struct ptt_group *group, struct ptt_reply *reply);
int ptt_group_take(struct ptt_group *group);

/* dma_api.c */
void ptt_unshare_all(const struct ptt_device *dev);

#endif
