"""What lies in a folder as records: the layouts of CUB-200-2011, COCO 2014 and AttnGAN, and a folder of one's own."""
